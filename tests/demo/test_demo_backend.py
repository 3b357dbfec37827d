"""The demo backend speaks OpenAI's protocol as OpenAI's own SDK reads it, and counts what was said."""

import base64
import io
import json
import math
import struct
import wave
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from keytoll.demo.backend import CREDENTIAL, MODELS

HELLO = "You said: Hello, world! Thank you for trying Keytoll!"
HELLO_TOKENS = 13
MESSAGES: list[Any] = [{"role": "user", "content": "Hello, world!"}]


@pytest.fixture(scope="session")
async def client(backend_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=backend_url, api_key=CREDENTIAL, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
async def http(backend_url: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {CREDENTIAL}"}
    async with httpx.AsyncClient(base_url=backend_url, headers=headers, trust_env=False) as client:
        yield client


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_chat_answers_with_the_tokens_of_both_sides(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="demo-chat", messages=MESSAGES)
    assert answer.choices[0].message.content == HELLO
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 13, 17)


async def test_system_messages_are_counted_and_reported_as_cached(client: openai.AsyncOpenAI) -> None:
    parts = [{"type": "text", "text": "Hi 生产"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    answer = await client.chat.completions.create(model="demo-chat", messages=messages)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (5, 3)
    assert "Hi 生产" in str(answer.choices[0].message.content)


async def test_the_smallest_limit_holds_for_each_of_n_choices(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="demo-chat", messages=MESSAGES, n=3, max_tokens=9, max_completion_tokens=4
    )
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
    assert [choice.message.content for choice in answer.choices] == ["You said: Hello"] * 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


async def test_a_stream_has_usage_only_where_it_was_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="demo-chat", messages=MESSAGES, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == HELLO
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_usage_comes_last_in_a_chunk_without_choices(http: httpx.AsyncClient) -> None:
    body = {"model": "demo-chat", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
    answer = await http.post("/chat/completions", json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last, done = events(answer.text)
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == HELLO_TOKENS


async def test_running_usage_counts_what_was_sent_so_far(http: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": "demo-chat", "messages": MESSAGES, "stream": True, "stream_options": options}
    *chunks, done = events((await http.post("/chat/completions", json=body)).text)
    assert done == "[DONE]"
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [0, *range(1, HELLO_TOKENS + 1), HELLO_TOKENS, HELLO_TOKENS]


async def test_text_completions_answer_each_prompt_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="demo-chat", prompt=["Hello, world!", "again"])
    assert answer.choices[0].text == HELLO
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5
    stream = await client.completions.create(model="demo-chat", prompt=[1, 2, 3], stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]).startswith("You said: 1 2 3 ")


async def test_responses_answer_with_usage(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(model="demo-chat", input="Hello, world!", instructions="Be brief.")
    assert (answer.output_text, answer.status) == (HELLO, "completed")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens) == (7, 3)
    assert answer.usage.output_tokens == HELLO_TOKENS


async def test_a_streamed_response_ends_with_its_usage(client: openai.AsyncOpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Hello, world!"}]}]
    got = [event async for event in await client.responses.create(model="demo-chat", input=items, stream=True)]
    assert got[0].type == "response.created"
    assert "".join(event.delta for event in got if event.type == "response.output_text.delta") == HELLO
    assert [event.sequence_number for event in got] == list(range(len(got)))
    last = got[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == 17


async def test_a_response_cut_by_its_limit_is_incomplete(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="demo-chat", input="Hello, world!", max_output_tokens=2, stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == "You said"


async def test_embeddings_are_unit_vectors_and_equal_in_both_encodings(client: openai.AsyncOpenAI) -> None:
    """The SDK asks for base64 by itself; the same vectors come as numbers."""
    packed = await client.embeddings.create(model="demo-embedding", input=["Hello, world!", "again"], dimensions=8)
    plain = await client.embeddings.create(
        model="demo-embedding", input="Hello, world!", dimensions=8, encoding_format="float"
    )
    assert packed.usage.prompt_tokens == 5
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding
    assert math.hypot(*plain.data[0].embedding) == pytest.approx(1)


async def test_base64_is_of_little_endian_floats(http: httpx.AsyncClient) -> None:
    body = {"model": "demo-embedding", "input": [[1, 2], [3]], "encoding_format": "base64", "dimensions": 3}
    answer = (await http.post("/embeddings", json=body)).json()
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert len(struct.unpack("<3f", base64.b64decode(answer["data"][1]["embedding"]))) == 3


async def test_documents_are_ranked_and_each_read_with_the_query(http: httpx.AsyncClient) -> None:
    documents = ["Cats sleep.", {"text": "A toll for a bridge."}, "Tolls"]
    body = {
        "model": "demo-rerank",
        "query": "toll bridge",
        "documents": documents,
        "top_n": 2,
        "return_documents": True,
    }
    answer = (await http.post("/rerank", json=body)).json()
    assert [(each["index"], each["relevance_score"]) for each in answer["results"]] == [(1, 1.0), (0, 0.0)]
    assert answer["results"][0]["document"] == documents[1]
    assert answer["usage"] == {"total_tokens": 3 * 2 + 3 + 6 + 1}


async def test_moderation_flags_words_and_tells_no_usage(client: openai.AsyncOpenAI) -> None:
    answer = await client.moderations.create(model="demo-moderation", input=["I hate mondays", "fine"])
    assert [result.flagged for result in answer.results] == [True, False]
    assert answer.results[0].categories.hate
    assert "usage" not in answer.model_dump()


async def test_images_are_pngs_and_tell_their_usage(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.generate(model="demo-image", prompt="A toll gate", n=2)
    assert answer.data is not None
    first, second = (base64.b64decode(image.b64_json or "") for image in answer.data)
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert first != second
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 128)


async def test_a_streamed_image_ends_with_its_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.generate(model="demo-image", prompt="A toll gate", stream=True, partial_images=2)
    got = [event async for event in stream]
    assert [event.type for event in got] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    last = got[-1]
    assert last.type == "image_generation.completed"
    assert last.usage.output_tokens == 64


async def test_what_was_spoken_is_transcribed(client: openai.AsyncOpenAI) -> None:
    sound = await client.audio.speech.create(
        model="demo-speech", voice="alloy", input="Hello, 世界!", response_format="wav"
    )
    with wave.open(io.BytesIO(sound.content)) as heard:
        assert heard.getnframes() == 4 * 800
    answer = await client.audio.transcriptions.create(
        model="demo-transcription", file=sound.content, prompt="A greeting"
    )
    assert answer.text == "Hello, 世界!"
    assert answer.usage is not None
    assert answer.usage.type == "tokens"
    assert answer.usage.input_token_details is not None
    assert (answer.usage.input_token_details.text_tokens, answer.usage.output_tokens) == (2, 4)
    assert answer.usage.input_token_details.audio_tokens == 5


async def test_a_streamed_transcript_ends_with_its_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.audio.transcriptions.create(model="demo-transcription", file=b"x" * 1601, stream=True)
    *deltas, last = [event async for event in stream]
    assert last.type == "transcript.text.done"
    assert (
        last.text == "A sound of 1601 bytes." == "".join(e.delta for e in deltas if e.type == "transcript.text.delta")
    )
    assert last.usage is not None
    assert (last.usage.input_tokens, last.usage.output_tokens) == (2, 6)


async def test_text_and_subtitles_have_no_usage(client: openai.AsyncOpenAI) -> None:
    text = await client.audio.transcriptions.create(model="demo-transcription", file=b"x", response_format="text")
    assert text == "A sound of 1 bytes.\n"
    subtitles = await client.audio.transcriptions.create(model="demo-transcription", file=b"x", response_format="srt")
    assert subtitles.splitlines()[0] == "1"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n--b--"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nx'),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ndemo-transcription\r\n--b--',
        ),
    ],
)
async def test_a_form_without_what_it_must_have_is_refused(
    http: httpx.AsyncClient, content_type: str, body: bytes
) -> None:
    answer = await http.post("/audio/transcriptions", content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_its_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == list(MODELS)
    assert (await client.models.retrieve("demo-chat")).id == "demo-chat"


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", f"Basic {CREDENTIAL}"])
async def test_only_the_backends_own_credential_opens_it(http: httpx.AsyncClient, authorization: str) -> None:
    answer = await http.post("/chat/completions", headers={"authorization": authorization}, json={"model": "demo-chat"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("path", "model"),
    [("/chat/completions", "Qwen2.5-72B-Instruct"), ("/responses", "demo-embedding"), ("/embeddings", "demo-chat")],
)
async def test_only_its_own_model_names_are_known(http: httpx.AsyncClient, path: str, model: str) -> None:
    answer = await http.post(path, json={"model": model, "input": "x", "messages": MESSAGES})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/chat/completions", {}, "messages"),
        ("/chat/completions", {"messages": []}, "messages"),
        ("/chat/completions", {"messages": [{"role": "user", "content": 5}]}, "messages"),
        ("/chat/completions", {"messages": MESSAGES, "stream": "true"}, "stream"),
        ("/chat/completions", {"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ("/chat/completions", {"messages": MESSAGES, "n": True}, "n"),
        ("/chat/completions", {"messages": MESSAGES, "stream_options": {}}, "stream_options"),
        ("/completions", {"prompt": []}, "prompt"),
        ("/responses", {}, "input"),
        ("/responses", {"input": "x", "instructions": 5}, "instructions"),
        ("/rerank", {"model": "demo-rerank", "documents": ["x"]}, "query"),
        ("/rerank", {"model": "demo-rerank", "query": "x", "documents": []}, "documents"),
        ("/rerank", {"model": "demo-rerank", "query": "x", "documents": [5]}, "documents"),
        ("/moderations", {"model": "demo-moderation"}, "input"),
        ("/images/generations", {"model": "demo-image"}, "prompt"),
        ("/images/generations", {"model": "demo-image", "prompt": "x", "n": 11}, "n"),
        ("/audio/speech", {"model": "demo-speech", "voice": "x"}, "input"),
        ("/audio/speech", {"model": "demo-speech", "input": "x"}, "voice"),
        (
            "/audio/speech",
            {"model": "demo-speech", "input": "x", "voice": "x", "response_format": "mp3"},
            "response_format",
        ),
    ],
)
async def test_a_wrong_field_is_named(http: httpx.AsyncClient, path: str, fields: dict[str, Any], param: str) -> None:
    answer = await http.post(path, json={"model": "demo-chat", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_half_a_surrogate_pair_is_answered(http: httpx.AsyncClient) -> None:
    body = b'{"model": "demo-chat", "messages": [{"role": "user", "content": "a\\ud800b"}]}'
    answer = await http.post("/chat/completions", content=body)
    assert answer.status_code == 200
    assert "a?b" in answer.json()["choices"][0]["message"]["content"]


async def test_errors_of_the_router_have_the_same_shape(http: httpx.AsyncClient) -> None:
    for answer, status in ((await http.get("/nothing"), 404), (await http.get("/embeddings"), 405)):
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
