"""Large bodies: 32 MiB pass both ways, more is refused, and strangers can't make Envoy hold any of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.conftest import CHAT, Gateway, until
from e2e.scripted import answering, completion
from keytoll.core.secrets import KEY_PREFIX, mint

MIB = 2**20
CHAT_PATH = "/v1/chat/completions"


def body_of(size_bytes: int, model: str = "odd") -> bytes:
    head, tail = b'{"model":"' + model.encode() + b'","messages":[{"role":"user","content":"', b'"}]}'
    return head + b"x" * (size_bytes - len(head) - len(tail)) + tail


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), MIB):
        yield body[at : at + MIB]


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("http2", [False, True])
async def test_ten_mebibytes_pass(gateway: Gateway, key: dict[str, Any], *, http2: bool, declared: bool) -> None:
    body = body_of(10 * MIB)
    async with gateway.http(key, http1=not http2, http2=http2) as client:
        response = await client.post(CHAT_PATH, content=body if declared else in_chunks(body), headers=JSON)
    assert response.status_code == 200, response.text[:300]
    assert gateway.odd.asked[-1].body == body.replace(b'"odd"', b'"odd-upstream"')
    assert (await gateway.charge(key))["measured"] == "reported"


async def test_just_under_the_limit_passes(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, content=body_of(32 * MIB - 64), headers=JSON)
    assert response.status_code == 200, response.text[:300]


@pytest.mark.parametrize("declared", [True, False])
async def test_forty_mebibytes_are_too_large(gateway: Gateway, key: dict[str, Any], *, declared: bool) -> None:
    """By a blocking client, as OpenAI's SDK is by default: it reads the early answer though it can't send on.

    httpx's asynchronous client can't: it reports the connection that Envoy closes on it.
    """
    body = body_of(40 * MIB)

    def post() -> httpx.Response:
        with httpx.Client(headers={"authorization": f"Bearer {key['secret']}", **JSON}, timeout=60) as client:
            pieces = (body[at : at + MIB] for at in range(0, len(body), MIB))
            return client.post(gateway.url + CHAT_PATH, content=body if declared else pieces)

    response = await asyncio.to_thread(post)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (413, "request_too_large", "invalid_request_error")
    assert response.headers["x-should-retry"] == "false"


async def test_an_answer_of_twenty_mebibytes_passes(gateway: Gateway, key: dict[str, Any]) -> None:
    """Embeddings grow so large; Envoy's default would make a 500 of it after the work was done."""
    body = completion(padding="x" * (20 * MIB))
    gateway.odd.script = answering(body)
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={"model": "odd", "messages": []})
    assert response.status_code == 200, response.text[:300]
    assert response.json() == body
    assert (await gateway.charge(key))["output_tokens"] == 3


async def test_a_large_body_with_no_model_on_offer_is_refused_by_its_content(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, content=body_of(MIB, "nope"), headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_large_prompt_is_answered_by_the_real_thing(gateway: Gateway, key: dict[str, Any]) -> None:
    prompt = "toll " * 50_000
    async with gateway.sdk(key) as client:
        messages: list[Any] = [{"role": "user", "content": prompt}]
        answer = await client.chat.completions.create(model=CHAT, messages=messages, max_tokens=5)
    assert answer.usage is not None
    charge = await gateway.charge(key)
    assert charge["input_tokens"] == answer.usage.prompt_tokens >= 50_000


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,"])
async def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(
    gateway: Gateway, key: dict[str, Any], value: bytes
) -> None:
    """30 MiB of them would take Envoy seconds and gigabytes."""
    pid = gateway.stack.pids["envoy"]
    before = resident_mib(pid)
    body = b'{"model":"odd","messages":[' + value * (30 * MIB // len(value)) + b"0]}"
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, content=body, headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert resident_mib(pid) < before + 250


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def test_strangers_with_large_bodies_do_not_fill_envoys_memory(gateway: Gateway) -> None:
    """30 connections, each sending 30 MiB with a well-formed but unknown key."""
    pid = gateway.stack.pids["envoy"]
    before, peak, head = resident_mib(pid), 0.0, _head(30 * MIB)
    answered: list[bytes] = []

    async def flood() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.stack.settings.ports.data)
        writer.write(head)
        answer = asyncio.create_task(reader.read(4096))
        try:
            for _ in range(30):
                writer.write(b"x" * MIB)
                await writer.drain()
        except ConnectionError:
            pass  # refused before it was all sent: just so
        answered.append(await answer)
        writer.close()

    floods = asyncio.gather(*(flood() for _ in range(30)), return_exceptions=True)
    while not floods.done():
        peak = max(peak, resident_mib(pid))
        await asyncio.sleep(0.02)
    print(json.dumps({"before_mib": round(before), "peak_mib": round(peak)}))
    assert answered
    assert all(b" 401 " in answer or answer == b"" for answer in answered)
    assert peak < before + 60
    await until(lambda: _alive(gateway))


def _head(length: int) -> bytes:
    unknown = mint(KEY_PREFIX, b"\x01" * 32)
    return (
        f"POST {CHAT_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {unknown}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def _alive(gateway: Gateway) -> bool:
    async with gateway.http() as client:
        return (await client.post(CHAT_PATH)).status_code == 401
