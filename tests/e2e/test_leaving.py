"""Callers who leave while Check is asked: what was held for them is held no longer, and what ran has its row."""

import asyncio
import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from told import named

from e2e.conftest import Gateway, gateway_in, until
from e2e.scripted import streaming

ASK = json.dumps({"model": "odd", "prompt": "x", "max_tokens": 5}).encode()
JSON = {"content-type": "application/json"}
CALLERS, ROUNDS = 20, 40


def _request(key: dict[str, Any]) -> bytes:
    head = (
        "POST /v1/completions HTTP/1.1",
        "host: x",
        f"authorization: Bearer {key['secret']}",
        "content-type: application/json",
        f"content-length: {len(ASK)}",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + ASK


async def _leave(gateway: Gateway, request: bytes, *, after_s: float) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await asyncio.sleep(after_s)
    writer.transport.abort()


async def _reset(gateway: Gateway, key: dict[str, Any], *, after_s: float) -> None:
    """Leave as a caller of HTTP/2 does, whose connection stays."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    caller = H2Connection(H2Configuration(client_side=True))
    caller.initiate_connection()
    writer.write(caller.data_to_send())
    await reader.read(1)  # Envoy's settings: it is ready
    pseudo = {":method": "POST", ":path": "/v1/completions", ":scheme": "http", ":authority": "x"}
    headers = {"authorization": f"Bearer {key['secret']}", "content-length": str(len(ASK)), **JSON}
    caller.send_headers(1, list((pseudo | headers).items()))
    caller.send_data(1, ASK, end_stream=True)
    writer.write(caller.data_to_send())
    await asyncio.sleep(after_s)
    caller.reset_stream(1)
    caller.ping(b"the last")
    writer.write(caller.data_to_send())
    while b"the last" not in await reader.read(65536):  # Envoy has read the reset, which stood before it
        pass
    writer.close()


async def _metrics(gateway: Gateway) -> dict[str, float]:
    async with httpx.AsyncClient() as client:
        lines = (await client.get(gateway.stack.metrics_url)).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def _holds_nothing(gateway: Gateway) -> bool:
    return (await _metrics(gateway))["keytoll_holds"] == 0


@pytest.mark.parametrize("http2", [False, True])
async def test_whoever_leaves_while_check_is_asked_holds_nothing_once_the_journal_is_read(
    gateway: Gateway, http2: bool
) -> None:
    """They leave 0 to 6 ms after they ask, so at all stages: before Check, amid its answer's way, and while it runs."""
    key = await gateway.new_key()
    instants_s = itertools.cycle(ms / 1000 * 6 / 97 for ms in range(97))

    async def call() -> None:
        if http2:
            await _reset(gateway, key, after_s=next(instants_s))
        else:
            await _leave(gateway, _request(key), after_s=next(instants_s))

    for _ in range(ROUNDS):
        await asyncio.gather(*(call() for _ in range(CALLERS)))
    await until(lambda: _all_told(gateway))
    await until(lambda: _holds_nothing(gateway))
    records = _journal(gateway)
    gone = {record["gone"] for record in records if "gone" in record}
    ran = {record["id"] for record in records if "entry" in record and named(record)["key_id"] == key["id"]}
    assert gone
    assert not ran & gone
    assert len(gateway.odd.asked) <= len(ran) == len(await gateway.charges(key, len(ran)))
    async with gateway.stack.operator() as operator:
        lost = (await operator.get("/api/v1/unsettled")).raise_for_status().json()["data"]
    assert [row for row in lost if row["key_id"] == key["id"]] == []
    assert (await _metrics(gateway))['keytoll_log_entries_total{outcome="unreadable"}'] == 0


async def test_whoever_leaves_amid_an_answer_is_charged_and_not_told_of_as_gone(gateway: Gateway) -> None:
    key = await gateway.new_key()
    hang = asyncio.Event()

    async def then() -> None:
        await hang.wait()

    gateway.odd.script = streaming([b'data: {"choices":[{"delta":{}}]}\n\n'], then=then)
    body = {"model": "odd", "messages": [], "stream": True}
    async with gateway.http(key) as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert await anext(response.aiter_bytes())
    hang.set()
    await gateway.charge(key)
    told = [record for record in _journal(gateway) if response.headers["x-request-id"] in record.values()]
    assert ["gone" in record for record in told] == [False]


async def _all_told(gateway: Gateway) -> bool:
    """Whether Envoy has written all that it will: callers who are gone are still on their way through it for a moment."""
    before = len(_journal(gateway))
    await asyncio.sleep(1.5)  # far more than Envoy's flush interval, and than Keytoll's look at its gauges
    return len(_journal(gateway)) == before


def _journal(gateway: Gateway) -> list[dict[str, Any]]:
    text = b"".join(path.read_bytes() for path in (gateway.run_dir / "journal").glob("journal*"))
    whole, _, _ = text.rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


async def test_a_request_whose_check_took_too_long_is_told_of_too(tmp_path: Path) -> None:
    """Check may have been answered by then, or its Keytoll killed after it wrote the admission down."""
    async with gateway_in(tmp_path) as gateway:
        key, journal = await gateway.new_key(), gateway.run_dir / "journal" / "journal.jsonl"
        async with gateway.http(key) as client:
            os.kill(gateway.stack.pids["keytoll"], signal.SIGSTOP)
            try:
                response = await client.post("/v1/completions", content=ASK, headers=JSON)
            finally:
                os.kill(gateway.stack.pids["keytoll"], signal.SIGCONT)
            assert response.status_code == 503
        await until(lambda: _is_in(journal, response.headers["x-request-id"]))
        await until(lambda: _holds_nothing(gateway))
        async with gateway.http(key) as client:
            assert (await client.post("/v1/completions", content=ASK, headers=JSON)).status_code == 200
        await gateway.charge(key)


async def _is_in(journal: Path, request_id: str) -> bool:
    return any(json.loads(line).get("gone") == request_id for line in journal.read_bytes().splitlines())


async def test_strangers_who_leave_and_callers_who_are_refused_write_nothing(gateway: Gateway) -> None:
    journal = gateway.run_dir / "journal" / "journal.jsonl"
    before = journal.read_bytes() if journal.exists() else b""
    key = await gateway.new_key()
    stranger = {"secret": "sk-somebody-elses"}
    for ms in range(6):
        await _leave(gateway, _request(stranger), after_s=ms / 1000)
        await _leave(gateway, _request(key)[:30], after_s=ms / 1000)
    refused = {"secret": key["secret"][:-1] + ("a" if key["secret"][-1] != "a" else "b")}
    async with gateway.http(refused) as client:
        assert (await client.post("/v1/completions", content=ASK)).status_code == 401
    async with gateway.http(key) as client:  # its line comes after all that would have been written before
        response = await client.post("/v1/completions", content=ASK, headers=JSON)
        assert response.status_code == 200
    await gateway.charge(key)
    (record,) = [json.loads(line) for line in journal.read_bytes()[len(before) :].splitlines()]
    assert named(record)["key_id"] == key["id"]
