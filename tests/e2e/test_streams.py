"""Streams through the real Envoy, from a backend that cuts and shapes them as no good one would."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from starlette.responses import Response

from e2e.conftest import CHAT, Gateway, until
from e2e.scripted import answering, completion, streaming

CHAT_PATH = "/v1/chat/completions"


def event(content: dict[str, Any], *, end: str = "\n\n") -> bytes:
    return b"data: " + json.dumps(content).encode() + end.encode()


def delta(text: str, **more: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}], **more}


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
USAGE_CHUNK = {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
DONE = b"data: [DONE]\n\n"


async def stream(gateway: Gateway, key: dict[str, Any], pieces: list[bytes], **options: Any) -> bytes:
    """Stream these pieces through the gateway; return what the caller saw."""
    gateway.odd.script = streaming(pieces)
    async with gateway.http(key) as client:
        response = await client.post(
            CHAT_PATH, json={"model": "odd", "messages": [], "stream": True, "stream_options": options or None}
        )
    assert response.status_code == 200
    return response.content


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 3, 5, 10_000])
async def test_only_the_usage_chunk_is_hidden_in_whatever_pieces_it_comes(
    gateway: Gateway, key: dict[str, Any], end: str, size: int
) -> None:
    wanted = event(delta('say \\"choices\\":[] twice'), end=end) + event(delta("b", usage=None), end=end)
    whole = wanted + event(USAGE_CHUNK, end=end) + DONE
    seen = await stream(gateway, key, [whole[i : i + size] for i in range(0, len(whole), size)])
    assert seen == wanted + DONE
    charge = await gateway.charge(key)
    assert (charge["input_tokens"], charge["output_tokens"], charge["measured"]) == (7, 3, "reported")


async def test_a_caller_who_asks_for_usage_gets_every_byte(gateway: Gateway, key: dict[str, Any]) -> None:
    whole = event(delta("a")) + event(USAGE_CHUNK) + DONE
    assert await stream(gateway, key, [whole], include_usage=True) == whole
    assert await gateway.charge(key)


async def test_a_stream_without_its_last_blank_line_loses_no_byte(gateway: Gateway, key: dict[str, Any]) -> None:
    whole = event(delta("a")) + b"data: [DONE]"
    assert await stream(gateway, key, [whole]) == whole
    whole = event(delta("a")) + event(delta("b")).rstrip()
    assert await stream(gateway, key, [whole[:20], whole[20:]]) == whole


async def test_a_stream_of_declared_length_loses_no_byte_but_its_usage_chunk(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    wanted = event(delta("a")) + b"data: [DONE]"

    async def script(_: object) -> Response:
        return Response(event(USAGE_CHUNK) + wanted, media_type="text/event-stream")

    gateway.odd.script = script
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={"model": "odd", "messages": [], "stream": True})
    assert response.content == wanted
    assert (await gateway.charge(key))["output_tokens"] == 3


async def test_usage_is_asked_for_and_other_options_are_kept(gateway: Gateway, key: dict[str, Any]) -> None:
    await stream(gateway, key, [DONE], include_usage=False, include_obfuscation=False)
    asked = json.loads(gateway.odd.asked[-1].body)
    assert asked["stream_options"] == {"include_usage": True, "include_obfuscation": False}


async def test_the_last_usage_counts_not_the_sum(gateway: Gateway, key: dict[str, Any]) -> None:
    """User report 25."""
    running = [event(delta("a", usage={"prompt_tokens": 7, "completion_tokens": n})) for n in (1, 2, 3)]
    await stream(gateway, key, [*running, event(USAGE_CHUNK), event(USAGE_CHUNK), DONE])
    charge = await gateway.charge(key)
    assert (charge["input_tokens"], charge["output_tokens"]) == (7, 3)


async def test_usage_in_two_kinds_of_events_is_merged(gateway: Gateway, key: dict[str, Any]) -> None:
    """User report 26."""
    start = b"event: message_start\n" + event({"type": "message_start", "message": {"usage": {"input_tokens": 11}}})
    end = b"event: message_delta\n" + event({"type": "message_delta", "usage": {"output_tokens": 5}})
    await stream(gateway, key, [start, event(delta("a")), end])
    charge = await gateway.charge(key)
    assert (charge["input_tokens"], charge["output_tokens"]) == (11, 5)


async def test_details_are_counted_once_and_apart(gateway: Gateway, key: dict[str, Any]) -> None:
    """User reports 18 and 20, through Envoy's readers of streamed and of plain answers."""
    usage = {
        "prompt_tokens": 2006,
        "completion_tokens": 482,
        "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 448},
    }
    await stream(gateway, key, [event({**USAGE_CHUNK, "usage": usage}), DONE])
    gateway.odd.script = answering(completion(usage=usage))
    async with gateway.http(key) as client:
        await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
    for charge in await gateway.charges(key, 2):
        tokens = [charge[f"{n}_tokens"] for n in ("input", "cached_input", "output", "reasoning")]
        assert tokens == [86, 1920, 482, 448]
        assert Decimal(charge["amount"]) == (86 + 1920 + 482 * 2) / Decimal(1_000_000)


@pytest.mark.parametrize("usage", [None, "absent", {}, {"prompt_tokens": "many"}, {"prompt_tokens": -5}])
async def test_an_answer_without_a_usable_usage_is_estimated_and_marked_so(
    gateway: Gateway, key: dict[str, Any], usage: object
) -> None:
    """User report 23: not zero, and no crash on `usage: null`."""
    body = completion(usage=usage)
    if usage == "absent":
        del body["usage"]
    gateway.odd.script = answering(body)
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
    assert response.json() == body
    charge = await gateway.charge(key)
    assert (charge["measured"], charge["status"]) == ("estimated", 200)
    assert charge["input_tokens"] > 0
    assert charge["output_tokens"] > 0
    assert 0 < Decimal(charge["amount"]) <= Decimal(charge["hold"])


async def test_reported_zeros_are_zeros(gateway: Gateway, key: dict[str, Any]) -> None:
    """User report 24."""
    gateway.odd.script = answering(completion(usage={"prompt_tokens": 0, "completion_tokens": 0}))
    async with gateway.http(key) as client:
        await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
    charge = await gateway.charge(key)
    assert (charge["amount"], charge["measured"]) == ("0.00", "reported")


async def test_a_usage_in_a_very_large_event_is_found(gateway: Gateway, key: dict[str, Any]) -> None:
    await stream(gateway, key, [event(delta("x" * 2_000_000, usage=USAGE)), DONE])
    assert (await gateway.charge(key))["output_tokens"] == 3


async def test_a_stream_that_its_caller_leaves_is_one_row_and_its_events_are_counted(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    """User report 22."""
    left = asyncio.Event()

    async def hold() -> None:
        await left.wait()

    gateway.odd.script = streaming([event(delta("a")), event(delta("b"))], then=hold)
    async with gateway.http(key) as client:
        async with client.stream("POST", CHAT_PATH, json={"model": "odd", "messages": [], "stream": True}) as response:
            async for _ in response.aiter_bytes():
                break
        left.set()
    charge = await gateway.charge(key)
    assert charge["measured"] == "estimated"
    assert charge["input_tokens"] > 0
    assert 1 <= charge["output_tokens"] <= 2  # one for each event that was delivered
    lines = (gateway.run_dir / "journal" / "journal.jsonl").read_text().splitlines()
    (record,) = [r for r in map(json.loads, lines) if r.get("decision_id") == charge["decision_id"]]
    assert record["lua"]["stream"]["events"] >= 1
    assert "DC" in record["flags"]


async def test_a_stream_that_its_backend_cuts_is_one_row(gateway: Gateway, key: dict[str, Any]) -> None:
    async def fail() -> None:
        raise ConnectionError("cut on purpose")

    gateway.odd.script = streaming([event(delta("a", usage=USAGE))], then=fail)
    async with gateway.http(key) as client:
        with pytest.raises(Exception, match=r"peer closed|incomplete|disconnect"):
            await client.post(CHAT_PATH, json={"model": "odd", "messages": [], "stream": True})
    charge = await gateway.charge(key)
    assert charge["output_tokens"] == 3  # it had told its usage so far


async def test_a_stream_is_passed_on_as_it_comes(gateway: Gateway, key: dict[str, Any]) -> None:
    """The first event reaches the caller while the backend still works on the next."""
    go_on = asyncio.Event()

    async def rest() -> None:
        await asyncio.wait_for(go_on.wait(), 10)

    gateway.odd.script = streaming([event(delta("first"))], then=rest)
    async with (
        gateway.http(key) as client,
        client.stream("POST", CHAT_PATH, json={"model": "odd", "messages": [], "stream": True}) as response,
    ):
        assert b"first" in await anext(response.aiter_bytes())
        assert not go_on.is_set()
        go_on.set()


async def test_a_response_that_is_stored_by_default_is_not(gateway: Gateway, key: dict[str, Any]) -> None:
    gateway.odd.script = answering({"id": "resp_1", "usage": {"input_tokens": 4, "output_tokens": 2}})
    async with gateway.http(key) as client:
        await client.post("/v1/responses", json={"model": "odd", "input": "x"})
    assert json.loads(gateway.odd.asked[-1].body) == {"store": False, "model": "odd-upstream", "input": "x"}
    charge = await gateway.charge(key)
    assert (charge["input_tokens"], charge["output_tokens"]) == (4, 2)


async def test_a_body_reaches_the_backend_byte_for_byte_but_for_its_model(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    body = '{ "model" : "odd",\t"messages":[{"role":"user","content":"é \\u00e9 \\/"}], "seed": 9007199254740993,\r\n "x": 1.0, "y": 123456789012345678901234567890}'
    async with gateway.http(key) as client:
        response = await client.post(
            CHAT_PATH, content=body.encode(), headers={"content-type": "Application/JSON; charset=utf-8"}
        )
    assert response.status_code == 200
    assert gateway.odd.asked[-1].body.decode() == body.replace('"odd"', '"odd-upstream"')


async def test_nothing_of_the_caller_reaches_the_backend_and_nothing_of_its_account_the_caller(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    account = {
        "openai-organization": "org-x",
        "x-ratelimit-limit-requests": "5",
        "set-cookie": "a=b",
        "x-model": "kept",
    }
    gateway.odd.script = answering(completion(), headers=account)
    sent = {
        "x-request-id": "forged",
        "x-kt-route": "model/elsewhere",
        "x-kt-known": "1",
        "x-envoy-max-retries": "9",
        "cookie": "c=d",
        "openai-organization": "org-mine",
        "x-forwarded-for": "10.9.8.7",
        "accept-encoding": "gzip",
        "idempotency-key": "shared",
        "x-http-method-override": "DELETE",
        "forwarded": "for=10.0.0.1",
    }
    async with gateway.http(key) as client:
        path = CHAT_PATH + "?api-version=preview&key=abc"
        response = await client.post(path, json={"model": "odd", "messages": []}, headers=sent)
    assert gateway.odd.asked[-1].query == ""
    got = gateway.odd.asked[-1].headers
    assert got["authorization"] == "Bearer demo-backend-secret"
    assert key["secret"] not in str(got)
    assert not {"cookie", "openai-organization", "x-forwarded-for", "accept-encoding", "forwarded"} & got.keys()
    assert not {"idempotency-key", "x-http-method-override"} & got.keys()
    assert [name for name in got if name.startswith("x-kt-")] == []
    assert got["x-request-id"] != "forged"
    assert not account.keys() & response.headers.keys()
    assert [name for name in response.headers if name.startswith("x-envoy-")] == []


async def test_a_pool_falls_back_to_its_next_member_and_is_charged_once(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={"model": "reserved", "messages": []})
    assert response.status_code == 200
    assert json.loads(gateway.odd.asked[-1].body)["model"] == "second"
    charge = await gateway.charge(key)
    assert (charge["attempts"], charge["output_tokens"], charge["model"]) == (2, 3, "reserved")


async def test_a_backend_that_is_down_for_good_is_an_outage_and_costs_nothing(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    async def refuse(*_: object) -> Any:
        raise ConnectionError("down on purpose")

    gateway.odd.script = refuse
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
    assert response.status_code in (500, 502, 503)
    charge = await gateway.charge(key)
    assert charge["amount"] == "0.00"


@pytest.mark.parametrize("status", [301, 307, 401, 403])
async def test_a_backend_that_refuses_our_credential_is_an_outage_and_tells_nothing(
    gateway: Gateway, key: dict[str, Any], status: int
) -> None:
    leak = {"error": {"message": "Incorrect API key provided: sk-operator-1234", "code": "invalid_api_key"}}
    gateway.odd.script = answering(leak, status=status, headers={"location": "http://internal:8000/"})
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unavailable")
    assert "operator" not in response.text
    assert "location" not in response.headers
    assert (await gateway.charge(key))["amount"] == "0.00"


async def test_usage_is_found_whatever_a_backend_calls_its_json(gateway: Gateway, key: dict[str, Any]) -> None:
    body = json.dumps(completion()).encode()
    for number, content_type in enumerate(["text/plain", None, "application/vnd.x+json; charset=utf-8"], 1):

        async def script(_: object, content_type: str | None = content_type) -> Response:
            return Response(body, headers={"content-type": content_type} if content_type else None)

        gateway.odd.script = script
        async with gateway.http(key) as client:
            await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
        assert (await gateway.charges(key, number))[-1]["measured"] == "reported", content_type


async def test_cache_writes_are_charged_at_their_price_in_plain_answers_and_streams(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    details = {"cached_tokens": 100, "cache_write_tokens": 600}
    usage = {"prompt_tokens": 1000, "completion_tokens": 5, "prompt_tokens_details": details}
    await stream(gateway, key, [event({**USAGE_CHUNK, "usage": usage}), DONE])
    gateway.odd.script = answering(completion(usage=usage))
    async with gateway.http(key) as client:
        await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
        told = {"input_tokens": 1000, "output_tokens": 5, "input_tokens_details": details}
        gateway.odd.script = streaming([event({"type": "response.completed", "response": {"usage": told}})])
        await client.post("/v1/responses", json={"model": "odd", "input": "x", "stream": True})
    for charge in await gateway.charges(key, 3):
        tokens = [charge[f"{name}_tokens"] for name in ("input", "cached_input", "cache_write", "output")]
        assert tokens == [300, 100, 600, 5]


async def test_an_answer_too_large_to_be_read_is_not_asked_for_again(gateway: Gateway, key: dict[str, Any]) -> None:
    gateway.odd.script = answering(completion(padding="x" * (33 * 2**20)))
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "answer_too_large")
    assert response.headers["x-should-retry"] == "false"


async def test_forty_at_once_fall_back_all(gateway: Gateway, key: dict[str, Any]) -> None:
    """Envoy's default of 3 retries at a time would fail most of them."""
    async with gateway.http(key) as client:
        responses = await asyncio.gather(
            *(client.post(CHAT_PATH, json={"model": "reserved", "messages": []}) for _ in range(40))
        )
    assert {response.status_code for response in responses} == {200}
    assert len(await gateway.charges(key, 40)) == 40


async def test_answers_name_their_request(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={"model": CHAT, "messages": [{"role": "user", "content": "x"}]})
    assert response.headers["x-request-id"]
    await until(lambda: gateway.charges(key, 1))
