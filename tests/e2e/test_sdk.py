"""Callers use the gateway with OpenAI's SDK and LangChain, and every answer is charged by its tokens."""

from decimal import Decimal
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from e2e.conftest import CHAT, EMBEDDING, Gateway

PRICE_INPUT, PRICE_OUTPUT = Decimal(4), Decimal(12)  # CNY per million tokens, in the shipped catalog
ASK: list[Any] = [{"role": "user", "content": "Tell me about tolls, please!"}]


def cost(prompt_tokens: int, completion_tokens: int) -> Decimal:
    return (prompt_tokens * PRICE_INPUT + completion_tokens * PRICE_OUTPUT) / 1_000_000


async def test_a_plain_chat_is_answered_and_charged(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        answer = await client.chat.completions.create(model=CHAT, messages=ASK)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    charge = await gateway.charge(key)
    assert (charge["input_tokens"], charge["output_tokens"]) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert Decimal(charge["amount"]) == cost(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert (charge["measured"], charge["model"], charge["owner"]) == ("reported", CHAT, "users/alice")
    assert (charge["endpoint"], charge["status"], charge["attempts"]) == ("chat/completions", 200, 1)


async def test_a_stream_is_charged_exactly_though_the_caller_did_not_ask_for_usage(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    """User report 21: usage obtained all the same, and the caller doesn't see the extra chunk."""
    async with gateway.sdk(key) as client:
        plain = await client.chat.completions.create(model=CHAT, messages=ASK)
        chunks = [c async for c in await client.chat.completions.create(model=CHAT, messages=ASK, stream=True)]
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == plain.choices[0].message.content
    first, second = await gateway.charges(key, 2)
    assert second["measured"] == "reported"
    assert (first["input_tokens"], first["output_tokens"]) == (second["input_tokens"], second["output_tokens"])
    assert first["amount"] == second["amount"]


async def test_a_caller_who_asks_for_usage_sees_it(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        stream = await client.chat.completions.create(
            model=CHAT, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    charge = await gateway.charge(key)
    assert charge["output_tokens"] == chunks[-1].usage.completion_tokens


async def test_completions_plain_and_streamed(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        plain = await client.completions.create(model=CHAT, prompt="Once upon a time")
        chunks = [c async for c in await client.completions.create(model=CHAT, prompt="Once upon a time", stream=True)]
    assert all(chunk.choices for chunk in chunks)
    first, second = await gateway.charges(key, 2)
    assert plain.usage is not None
    assert first["input_tokens"] == second["input_tokens"] == plain.usage.prompt_tokens
    assert first["output_tokens"] == second["output_tokens"] == plain.usage.completion_tokens


async def test_embeddings_are_charged_by_their_input(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        answer = await client.embeddings.create(model=EMBEDDING, input=["one two three", "four"])
    assert len(answer.data) == 2
    charge = await gateway.charge(key)
    assert charge["input_tokens"] == answer.usage.prompt_tokens > 0
    assert charge["output_tokens"] == 0


async def test_responses_plain_and_streamed(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.sdk(key) as client:
        plain = await client.responses.create(model=CHAT, input="Tell me about tolls")
        events = [e async for e in await client.responses.create(model=CHAT, input="Tell me about tolls", stream=True)]
    assert plain.output_text
    assert events[-1].type == "response.completed"
    assert plain.usage is not None
    for charge in await gateway.charges(key, 2):
        assert charge["endpoint"] == "responses"
        assert charge["input_tokens"] == plain.usage.input_tokens
        assert charge["output_tokens"] == plain.usage.output_tokens
        assert charge["measured"] == "reported"


async def test_langchain_streams_through_it(gateway: Gateway, key: dict[str, Any]) -> None:
    model = ChatOpenAI(model=CHAT, api_key=SecretStr(key["secret"]), base_url=gateway.stack.base_url)
    pieces = [piece.text async for piece in model.astream("Tell me about tolls")]
    assert "".join(pieces)
    assert (await gateway.charge(key))["measured"] == "reported"


async def test_charges_go_to_the_keys_owner(gateway: Gateway) -> None:
    mine, ours = await gateway.new_key("users/carol"), await gateway.new_key("organizations/acme")
    for each, owner in ((mine, "users/carol"), (ours, "organizations/acme")):
        async with gateway.sdk(each) as client:
            await client.chat.completions.create(model=CHAT, messages=ASK)
        assert (await gateway.charge(each))["owner"] == owner


@pytest.mark.parametrize("http2", [False, True])
async def test_http_1_and_2_alike(gateway: Gateway, key: dict[str, Any], *, http2: bool) -> None:
    async with gateway.http(key, http1=not http2, http2=http2) as client:
        response = await client.post("/v1/chat/completions", json={"model": CHAT, "messages": ASK})
    assert response.status_code == 200
    assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
