"""Every endpoint through the real Envoy, plain and streamed: answered, charged by its tokens, and nothing beside it."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.responses import Response

from e2e.conftest import CHAT, EMBEDDING, Gateway, gateway_in
from e2e.scripted import answering, streaming
from keytoll.core.secrets import KEY_PREFIX, mint

MIB = 2**20
TRANSCRIPTIONS = "/v1/audio/transcriptions"
SOUND = b"RIFF\x00\xff\r\n\r\n--\r\n" + bytes(range(256)) * 8


def tokens(charge: dict[str, Any]) -> tuple[int, int, int]:
    """Return the input, audio input and output tokens of a charge."""
    return charge["input_tokens"], charge["audio_input_tokens"], charge["output_tokens"]


def cost(*, input_price: int, input_tokens: int, output_price: int = 0, output_tokens: int = 0) -> Decimal:
    return Decimal(input_price * input_tokens + output_price * output_tokens) / 1_000_000


# What a reranker, a moderator, a painter and a voice are paid -----------------------------------------------------------


async def test_rerank_is_charged_by_the_total_that_its_backend_reports(gateway: Gateway, key: dict[str, Any]) -> None:
    body = {"model": "reranker", "query": "toll bridge", "documents": ["A toll for a bridge.", "Cats sleep."]}
    async with gateway.http(key) as client:
        answer = (await client.post("/v1/rerank", json=body)).raise_for_status().json()
    assert [each["index"] for each in answer["results"]] == [0, 1]
    charge = await gateway.charge(key)
    assert tokens(charge) == (answer["usage"]["total_tokens"], 0, 0) == (13, 0, 0)
    assert (charge["endpoint"], charge["measured"], charge["status"]) == ("rerank", "reported", 200)
    assert Decimal(charge["amount"]) == cost(input_price=1, input_tokens=13)


async def test_a_reranker_that_reports_its_tokens_under_meta_is_charged_by_them(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    gateway.odd.script = answering({"results": [], "meta": {"tokens": {"input_tokens": 12, "output_tokens": 0}}})
    async with gateway.http(key) as client:
        await client.post("/v1/rerank", json={"model": "odd", "query": "x", "documents": ["y"]})
    charge = await gateway.charge(key)
    assert (tokens(charge), charge["measured"]) == ((12, 0, 0), "reported")


async def test_moderations_tell_no_usage_and_are_estimated_by_what_was_sent(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    async with gateway.sdk(key) as client:
        answer = await client.moderations.create(model="moderator", input="I hate mondays " * 40)
    assert answer.results[0].flagged
    charge = await gateway.charge(key)
    assert (charge["endpoint"], charge["measured"], charge["output_tokens"]) == ("moderations", "estimated", 0)
    assert 100 < charge["input_tokens"] < 600
    assert Decimal(charge["amount"]) == cost(input_price=1, input_tokens=charge["input_tokens"])


async def test_images_plain_and_streamed(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        answer = await client.images.generate(model="painter", prompt="A toll gate", n=2)
        stream = await client.images.generate(model="painter", prompt="A toll gate", stream=True, partial_images=1)
        events = [event.type async for event in stream]
    assert answer.data is not None
    assert len(answer.data) == 2
    assert events == ["image_generation.partial_image", "image_generation.completed"]
    for charge, made in zip(await gateway.charges(key, 2), (128, 64), strict=True):
        assert (charge["endpoint"], charge["measured"]) == ("images/generations", "reported")
        assert tokens(charge) == (3, 0, made)
        tokens_cost = cost(input_price=1, input_tokens=3, output_price=10, output_tokens=made)
        assert Decimal(charge["amount"]) == Decimal("0.5") + tokens_cost


async def test_images_without_usage_cost_their_request_and_an_estimate_of_the_prompt(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    gateway.odd.script = answering({"created": 1, "data": [{"url": "http://x"}]})
    async with gateway.http(key) as client:
        await client.post("/v1/images/generations", json={"model": "odd", "prompt": "A toll gate"})
    charge = await gateway.charge(key)
    assert (charge["measured"], charge["output_tokens"]) == ("estimated", 0)
    assert charge["input_tokens"] > 0


async def test_speech_passes_as_it_is_and_is_estimated_by_its_text(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        sound = await client.audio.speech.create(
            model="voice", voice="alloy", input="Tell me about tolls", response_format="wav"
        )
    assert sound.content.startswith(b"RIFF")
    assert len(sound.content) > 4 * 1600
    charge = await gateway.charge(key)
    assert (charge["endpoint"], charge["measured"], charge["output_tokens"]) == ("audio/speech", "estimated", 0)
    assert charge["input_tokens"] > 0


async def test_speech_as_a_stream_of_events_is_charged_by_its_last(gateway: Gateway, key: dict[str, Any]) -> None:
    done = {"type": "speech.audio.done", "usage": {"input_tokens": 5, "output_tokens": 70, "total_tokens": 75}}
    events = [
        b'data: {"type":"speech.audio.delta","audio":"AAAA"}\n\n',
        b"data: " + json.dumps(done).encode() + b"\n\n",
    ]
    gateway.odd.script = streaming(events)
    body = {"model": "odd", "voice": "x", "input": "Hi", "stream_format": "sse"}
    async with gateway.http(key) as client:
        response = await client.post("/v1/audio/speech", json=body)
    assert response.content == b"".join(events)
    charge = await gateway.charge(key)
    assert (tokens(charge), charge["measured"]) == ((5, 0, 70), "reported")


# Forms ---------------------------------------------------------------------------------------------------------------


def form(*parts: tuple[str, bytes], boundary: str = "b0und") -> bytes:
    """Return a form of parts, each what follows `form-data; ` and its content."""
    written = [
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"
        for head, body in parts
    ]
    return b"".join(written) + f"--{boundary}--\r\n".encode()


def form_of(model: str, sound: bytes = SOUND) -> bytes:
    return form(('name="file"; filename="a.wav"', sound), ('name="model"', model.encode()), ('name="prompt"', b"Hi"))


FORM = {"content-type": "multipart/form-data; boundary=b0und"}


async def test_transcriptions_plain_and_streamed(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        said = await client.audio.speech.create(model="voice", voice="x", input="Two, please!", response_format="wav")
        await gateway.charge(key)
        plain = await client.audio.transcriptions.create(model="ear", file=said.content, prompt="A toll")
        stream = await client.audio.transcriptions.create(model="ear", file=said.content, prompt="A toll", stream=True)
        events = [event async for event in stream]
    assert plain.text == "Two, please!"
    assert events[-1].type == "transcript.text.done"
    assert plain.usage is not None
    assert plain.usage.type == "tokens"
    assert plain.usage.input_token_details is not None
    audio = plain.usage.input_token_details.audio_tokens or 0
    for charge in (await gateway.charges(key, 3))[1:]:
        assert (charge["endpoint"], charge["measured"]) == ("audio/transcriptions", "reported")
        assert tokens(charge) == (2, audio, 4)
        assert Decimal(charge["amount"]) == Decimal("0.25") + Decimal(2 * 1 + audio * 3 + 4 * 2) / 1_000_000


@pytest.mark.parametrize("kind", ["text", "srt"])
async def test_a_transcript_without_usage_is_estimated_by_its_text_and_not_by_the_sound(
    gateway: Gateway, key: dict[str, Any], kind: Any
) -> None:
    async with gateway.sdk(key) as client:
        text = str(await client.audio.transcriptions.create(model="ear", file=SOUND, response_format=kind))
    assert "A sound of" in text
    charge = await gateway.charge(key)
    assert (charge["input_tokens"], charge["audio_input_tokens"], charge["measured"]) == (0, 0, "estimated")
    assert len(text) // 8 <= charge["output_tokens"] <= len(text)
    assert Decimal(charge["amount"]) == Decimal("0.25") + Decimal(charge["output_tokens"] * 2) / 1_000_000


async def test_an_answer_of_which_nothing_can_be_estimated_costs_its_request(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    async def nothing(_: object) -> Response:
        return Response(b"", media_type="text/plain")

    gateway.odd.script = nothing
    async with gateway.http(key) as client:
        await client.post(TRANSCRIPTIONS, content=form_of("org/slashed"), headers=FORM)
    charge = await gateway.charge(key)
    assert (tokens(charge), charge["measured"], charge["amount"]) == ((0, 0, 0), "none", "0.125")


@pytest.mark.parametrize("model", ["odd", "reserved", "org/slashed"])
@pytest.mark.parametrize("declared", [True, False])
async def test_of_a_form_only_the_models_name_is_changed(
    gateway: Gateway, key: dict[str, Any], model: str, *, declared: bool
) -> None:
    """Also where the members of a pool differ in it, and the first is down."""
    upstream = {"odd": "odd-upstream", "reserved": "second", "org/slashed": "org/odd-upstream"}[model]
    body = form_of(model)

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    async with gateway.http(key) as client:
        response = await client.post(TRANSCRIPTIONS, content=body if declared else pieces(), headers=FORM)
    assert response.status_code == 200, response.text
    assert gateway.odd.asked[-1].body == form_of(upstream)
    assert gateway.odd.asked[-1].headers["content-type"] == FORM["content-type"]
    assert (await gateway.charge(key))["model"] == model


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("http2", [False, True])
async def test_a_form_of_twenty_mebibytes_passes(
    gateway: Gateway, key: dict[str, Any], *, http2: bool, declared: bool
) -> None:
    body = form_of("odd", SOUND * (20 * MIB // len(SOUND)))

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), MIB):
            yield body[at : at + MIB]

    async with gateway.http(key, http1=not http2, http2=http2) as client:
        response = await client.post(TRANSCRIPTIONS, content=body if declared else pieces(), headers=FORM)
    assert response.status_code == 200, response.text[:300]
    assert gateway.odd.asked[-1].body == body.replace(b"\r\n\r\nodd\r\n", b"\r\n\r\nodd-upstream\r\n")
    assert (await gateway.charge(key))["measured"] == "reported"


async def test_a_large_form_of_a_stranger_is_refused_by_its_headers(gateway: Gateway) -> None:
    """Not a byte of the body is sent: were the form read before the key is judged, this would wait for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.stack.settings.ports.data)
    head = (
        f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mint(KEY_PREFIX, b'x' * 32)}\r\n"
        f"Content-Type: {FORM['content-type']}\r\nContent-Length: {30 * MIB}\r\n\r\n"
    )
    writer.write(head.encode())
    async with asyncio.timeout(20):
        assert (await reader.readline()).split()[1] == b"401"
    writer.close()


MODEL, FILE = ('name="model"', b"odd"), ('name="file"; filename="a.wav"', SOUND)
REFUSED_FORMS: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{}", None),
    (form(FILE), "model"),
    (form(FILE, ('name="model"', b"")), "model"),
    (form(FILE, MODEL, MODEL), None),
    (form(FILE, MODEL, ('name="Model"', b"painter")), None),
    (form(FILE, MODEL, ('name="model[]"', b"painter")), None),
    (form(FILE, MODEL, ("name*=utf-8''model", b"painter")), None),
    (form(FILE, MODEL, ('name="x"; name="model"', b"painter")), None),
    (form(FILE, ('name="model"; filename="x"', b"odd")), None),
    (form(FILE, MODEL, ('name="stream"', b"True")), "stream"),
    (form(FILE, MODEL, ('name="stream"', b"1")), "stream"),
    (form(FILE, MODEL, ('name="stream"', b"true"), ('name="stream"', b"false")), None),
    (form(FILE, ('name="file"', b'\n--b0und\nContent-Disposition: form-data; name="model"\n\nx'), MODEL), None),
    (b"preamble\r\n" + form(FILE, MODEL), None),
    (form(FILE, MODEL) + b"epilogue", None),
    (form(FILE, MODEL).removesuffix(b"--b0und--\r\n"), None),
    (form(FILE, MODEL).replace(b"\r\n", b"\n"), None),
]


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("body", "param"), REFUSED_FORMS)
async def test_a_form_that_could_be_read_in_two_ways_is_refused(
    gateway: Gateway, key: dict[str, Any], body: bytes, param: str | None, *, declared: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield body

    async with gateway.http(key) as client:
        response = await client.post(TRANSCRIPTIONS, content=body if declared else pieces(), headers=FORM)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert gateway.odd.asked == []


async def test_refused_forms_leave_no_row(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        for body, _ in REFUSED_FORMS:
            await client.post(TRANSCRIPTIONS, content=body, headers=FORM)
        await client.post(TRANSCRIPTIONS, content=form_of("odd"), headers=FORM)
    assert (await gateway.charge(key))["status"] == 200


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        (TRANSCRIPTIONS, "application/json", b'{"model":"odd"}'),
        (TRANSCRIPTIONS, None, form_of("odd")),
        (TRANSCRIPTIONS, "multipart/form-data", form_of("odd")),
        (TRANSCRIPTIONS, "multipart/mixed; boundary=b0und", form_of("odd")),
        (TRANSCRIPTIONS, "multipart/form-data; boundary=other", form_of("odd")),
        (TRANSCRIPTIONS, "multipart/form-data; boundary=b0und; boundary=x", form_of("odd")),
        (TRANSCRIPTIONS, "application/json, multipart/form-data; boundary=b0und", form_of("odd")),
        (TRANSCRIPTIONS, "application/x-www-form-urlencoded", b"model=odd"),
        (TRANSCRIPTIONS, "application/octet-stream", SOUND),
        ("/v1/chat/completions", FORM["content-type"], form_of("odd")),
        ("/v1/images/generations", FORM["content-type"], form_of("odd")),
    ],
)
async def test_a_body_of_another_kind_than_the_endpoints_is_refused(
    gateway: Gateway, key: dict[str, Any], path: str, content_type: str | None, body: bytes
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    async with gateway.http(key) as client:
        response = await client.post(path, content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert gateway.odd.asked == []


# Reads ---------------------------------------------------------------------------------------------------------------


async def test_models_are_read_with_ones_own_key_and_leave_no_row(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        listed = [model.id async for model in client.models.list()]
        shown = await client.models.retrieve(CHAT)
        with pytest.raises(openai.NotFoundError) as raised:
            await client.models.retrieve("nope")
        # The row that must not be there would be before this one's.
        await client.embeddings.create(model=EMBEDDING, input="x")
    assert {CHAT, EMBEDDING, "ear", "odd", "org/slashed"} <= set(listed)
    assert (shown.id, shown.object) == (CHAT, "model")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert (await gateway.charge(key))["endpoint"] == "embeddings"


async def test_models_are_read_also_with_a_body_or_a_slash_in_the_name(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        assert (await client.request("GET", "/v1/models", json={"model": "odd"})).status_code == 200
        assert (await client.get("/v1/models/org/slashed")).json()["id"] == "org/slashed"


async def test_nobody_reads_models_without_a_key(gateway: Gateway) -> None:
    """What Check tells Keytoll's own API can't come from outside."""
    forged = {"x-kt-key-id": "key_1", "x-kt-route": "keytoll_api", "x-kt-known": "1"}
    for bearer in ({}, {"authorization": f"Bearer {mint(KEY_PREFIX, b'x' * 32)}"}):
        async with gateway.http() as client:
            response = await client.get("/v1/models", headers=forged | bearer)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_no_backend_is_told_whose_key_it_is(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        await client.post(TRANSCRIPTIONS, content=form_of("odd"), headers=FORM | {"x-kt-key-id": "key_1"})
    assert not [name for name in gateway.odd.asked[-1].headers if name.startswith("x-kt-")]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/v1/models", 405),
        ("OPTIONS", "/v1/models", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", f"/v1/models/{CHAT}", 405),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/..%2fkeys", 400),
        ("GET", "/v1/models/../../api/v1/about", 404),
        ("GET", "/api/v1/about", 404),
        ("GET", TRANSCRIPTIONS, 405),
        ("HEAD", "/v1/chat/completions", 405),
        ("OPTIONS", "/v1/audio/speech", 405),
        ("POST", "/v1/audio/translations", 404),
        ("POST", "/v1/audio/voices", 404),
        ("POST", TRANSCRIPTIONS + "/", 404),
        ("POST", "/v1/audio//transcriptions/x", 404),
        ("POST", "/v1/images/edits", 404),
        ("POST", "/v1/images/variations", 404),
        ("POST", "/v1/rerank/../files", 404),
        ("POST", "/v1/uploads", 404),
        ("POST", "/v1/vector_stores", 404),
        ("GET", "/v1/chat/completions/chatcmpl-1/messages", 404),
        ("POST", "/v1/responses/resp_1/cancel", 404),
        ("POST", "/v1/responses/input_tokens", 404),
    ],
)
async def test_nothing_beside_the_endpoints_is_reached(
    gateway: Gateway, key: dict[str, Any], method: str, path: str, status: int
) -> None:
    """User report 17."""
    async with gateway.http(key) as client:
        request = client.build_request(method, gateway.url, content=form_of("odd"), headers=FORM)
        request.url = request.url.copy_with(raw_path=path.encode())
        response = await client.send(request)
    assert response.status_code == status
    assert gateway.odd.asked == []


# State ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/responses", {"prompt": {"id": "pmpt_1"}}, "prompt"),
        ("/v1/responses", {"prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}, "prompt"),
        ("/v1/responses", {"prompt": {"Id": "pmpt_1"}}, "prompt"),
        ("/v1/responses", {"Prompt": {"id": "pmpt_1"}}, "prompt"),
        ("/v1/completions", {"prompt": {"id": "pmpt_1"}}, "prompt"),
        ("/v1/responses", {"conversation": {"Id": "conv_1"}}, "conversation"),
        ("/v1/responses", {"Previous_Response_Id": "resp_1"}, "previous_response_id"),
        ("/v1/responses", {"store": True}, "store"),
        ("/v1/responses", {"store": "true"}, "store"),
        ("/v1/responses", {"store": {"x": 1}}, "store"),
        ("/v1/responses", {"background": True}, "background"),
        ("/v1/chat/completions", {"store": True}, "store"),
        ("/v1/images/generations", {"store": 1}, "store"),
    ],
)
async def test_what_is_stored_at_a_backend_can_neither_be_made_nor_read(
    gateway: Gateway, key: dict[str, Any], path: str, fields: dict[str, Any], param: str
) -> None:
    async with gateway.http(key) as client:
        response = await client.post(path, json={"model": "odd", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert gateway.odd.asked == []


@pytest.mark.parametrize(
    ("path", "fields", "sent"),
    [
        ("/v1/responses", {}, {"store": False}),
        ("/v1/responses", {"store": None, "prompt": None}, {"store": False, "prompt": None}),
        ("/v1/responses", {"store": False}, {"store": False}),
        ("/v1/chat/completions", {"store": None}, {"store": None}),
        ("/v1/chat/completions", {"store": False}, {"store": False}),
        ("/v1/completions", {"prompt": ["a", "b"]}, {"prompt": ["a", "b"]}),
    ],
)
async def test_where_a_backend_stores_by_default_it_is_told_not_to(
    gateway: Gateway, key: dict[str, Any], path: str, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    async with gateway.http(key) as client:
        response = await client.post(path, json={"model": "odd", **fields})
    assert response.status_code == 200, response.text
    assert json.loads(gateway.odd.asked[-1].body) == {"model": "odd-upstream"} | sent


# What Keytoll is told, and what if a script fails -----------------------------------------------------------------------


@pytest.fixture(scope="module")
async def watched_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway whose journal also holds what Check was told of the body, and whose reader of forms always fails."""
    folder = tmp_path_factory.mktemp("endpoints")
    script = Path(__file__).parents[2] / "src" / "keytoll" / "envoy" / "form.lua"
    broken = folder / "form.lua"
    start = "function envoy_on_request(handle)\n"
    broken.write_text(script.read_text().replace(start, f"{start}  error('x')\n"))

    def changed(text: str) -> str:
        told = 'v: 2\n                  req: "%DYNAMIC_METADATA(kt.req)%"'
        return text.replace("v: 2", told, 1).replace("filename: lua/form.lua", f"filename: {broken}")

    async with gateway_in(folder, envoy_yaml=changed) as gateway:
        yield gateway


SECRET_PROMPT = "a most secret prompt"


@pytest.mark.parametrize("fields", [{"prompt": SECRET_PROMPT}, {"prompt": [SECRET_PROMPT]}])
async def test_a_prompt_is_neither_told_to_check_nor_journalled(
    watched_gateway: Gateway, fields: dict[str, Any]
) -> None:
    """The reader of stored prompts looks for an id in `prompt`; text and lists of text have none."""
    key = await watched_gateway.new_key()
    body = {"model": "odd", "max_tokens": 5, "user": SECRET_PROMPT, **fields}
    async with watched_gateway.http(key) as client:
        response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200
    charge = await watched_gateway.charge(key)
    written = b"".join(path.read_bytes() for path in (watched_gateway.run_dir / "journal").rglob("*") if path.is_file())
    line = next(line for line in written.splitlines() if charge["decision_id"].encode() in line)
    assert json.loads(line)["req"] == {"model": "odd", "max_tokens": 5}
    assert SECRET_PROMPT.encode() not in written


async def test_a_form_whose_reader_fails_is_refused(watched_gateway: Gateway) -> None:
    """A Lua error lets a request go on: but Check knows of no model then."""
    key = await watched_gateway.new_key()
    asked = len(watched_gateway.odd.asked)
    async with watched_gateway.http(key) as client:
        response = await client.post(TRANSCRIPTIONS, content=form_of("odd"), headers=FORM)
    assert response.status_code == 400
    assert len(watched_gateway.odd.asked) == asked
