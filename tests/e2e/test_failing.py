"""What happens when a part is away: nothing passes unmetered, and nothing that was answered goes uncharged."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import StreamingResponse

from e2e.conftest import CHAT, Gateway, gateway_in, until
from e2e.scripted import streaming
from keytoll.store.base import ChargeQuery
from keytoll.store.sqlite import SqliteStore

CHAT_PATH = "/v1/chat/completions"
ASK = {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
async def own_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway whose Keytoll these tests stop and start; each leaves it running."""
    async with gateway_in(tmp_path_factory.mktemp("failing")) as gateway:
        yield gateway


async def ask(gateway: Gateway, key: dict[str, Any], **changes: Any) -> httpx.Response:
    async with gateway.http(key) as client:
        return await client.post(CHAT_PATH, json={**ASK, **changes})


def assert_away(response: httpx.Response) -> None:
    assert response.status_code == 503
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "service_unavailable")
    assert response.headers["retry-after"] == "1"
    assert "x-should-retry" not in response.headers


async def test_without_keytoll_nothing_passes_and_what_was_running_is_charged_on_its_return(
    own_gateway: Gateway,
) -> None:
    """User report 31: fail closed, with 503. The stream ends while Keytoll is away, and is charged once it is back."""
    gateway, key = own_gateway, await own_gateway.new_key()
    gone = asyncio.Event()
    chunk = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    end = b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"

    async def body() -> AsyncIterator[bytes]:
        yield b'data: {"choices":[{"delta":{}}]}\n\n'
        await gone.wait()
        yield end

    async def script(_: object) -> Any:

        return StreamingResponse(body(), media_type="text/event-stream")

    gateway.odd.script = script
    async with (
        gateway.http(key) as client,
        client.stream("POST", CHAT_PATH, json={"model": "odd", "messages": [], "stream": True}) as response,
    ):
        stream = response.aiter_bytes()
        assert await anext(stream)
        await gateway.stack.keytoll.stop()
        assert_away(await ask(gateway, key))
        gone.set()
        assert [piece async for piece in stream]
    assert_away(await ask(gateway, key))
    await gateway.stack.keytoll.start()
    charge = await gateway.charge(key)
    assert (charge["output_tokens"], charge["measured"]) == (3, "reported")
    assert (await ask(gateway, key)).status_code == 200
    assert len(await gateway.charges(key, 2)) == 2


async def test_a_frozen_keytoll_is_an_outage_not_an_open_door(own_gateway: Gateway) -> None:
    gateway, key = own_gateway, await own_gateway.new_key()
    os.kill(gateway.stack.pids["keytoll"], signal.SIGSTOP)
    try:
        assert_away(await ask(gateway, key))
    finally:
        os.kill(gateway.stack.pids["keytoll"], signal.SIGCONT)
    assert (await ask(gateway, key)).status_code == 200
    # The Checks that Envoy gave up hold nothing: none of them will ever be logged.
    await until(lambda: _metric_is(gateway, "keytoll_holds", 0))
    assert len(await gateway.charges(key, 1)) == 1


async def _metric_is(gateway: Gateway, name: str, value: float) -> bool:
    async with httpx.AsyncClient() as client:
        text = (await client.get(gateway.stack.metrics_url)).text
    return f"\n{name} {value:.1f}\n" in text


async def test_kills_amid_requests_charge_every_answer_exactly_once(own_gateway: Gateway) -> None:
    """User report 27, harsher: SIGKILL instead of SIGTERM."""
    gateway, key = own_gateway, await own_gateway.new_key()
    answered = 0
    stop = asyncio.Event()

    async def call_on() -> None:
        nonlocal answered
        async with gateway.http(key) as client:
            while not stop.is_set():
                response = await client.post("/v1/embeddings", json={"model": "bge-m3", "input": "one two"})
                assert response.status_code in (200, 503)
                answered += response.status_code == 200
                if response.status_code == 503:
                    await asyncio.sleep(0.02)

    callers = [asyncio.create_task(call_on()) for _ in range(4)]
    for goal in (20, 60, 100):
        await until(lambda goal=goal: _reached(answered >= goal))  # type: ignore[misc]
        await gateway.stack.keytoll.kill()
        await gateway.stack.keytoll.start()
    await until(lambda: _reached(answered >= 140))
    stop.set()
    await asyncio.gather(*callers)
    charges = await gateway.charges(key, answered)
    assert len({charge["decision_id"] for charge in charges}) == answered
    assert {charge["input_tokens"] for charge in charges} == {2}


async def _reached(yes: bool) -> bool:
    return yes


async def test_a_rotated_journal_is_followed(own_gateway: Gateway) -> None:
    gateway, key = own_gateway, await own_gateway.new_key()
    journal = gateway.run_dir / "journal" / "journal.jsonl"
    transport = httpx.AsyncHTTPTransport(uds=str(gateway.run_dir / "admin.sock"))
    for number in range(3):
        assert (await ask(gateway, key)).status_code == 200
        journal.rename(journal.with_name(f"journal.jsonl.{number}"))
        assert (await ask(gateway, key)).status_code == 200
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as admin:
            (await admin.post("/reopen_logs")).raise_for_status()
            transport = httpx.AsyncHTTPTransport(uds=str(gateway.run_dir / "admin.sock"))
    assert (await ask(gateway, key)).status_code == 200
    assert len(await gateway.charges(key, 7)) == 7


async def test_health_and_metrics_tell_the_truth(own_gateway: Gateway) -> None:
    gateway, key = own_gateway, await own_gateway.new_key()
    assert (await ask(gateway, key)).status_code == 200
    await gateway.charge(key)
    origin = gateway.stack.metrics_url.removesuffix("/metrics")
    async with httpx.AsyncClient(base_url=origin) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).json() == {"ready": True, "not_ready": []}
        metrics = (await client.get("/metrics")).text
        hidden = gateway.run_dir / "journal-away"
        (gateway.run_dir / "journal").rename(hidden)
        try:
            await until(lambda: _status_is(client, 503))
            assert "journal" in (await client.get("/readyz")).text
        finally:
            hidden.rename(gateway.run_dir / "journal")
        await until(lambda: _status_is(client, 200))
    assert 'keytoll_decisions_total{reason="allowed"}' in metrics
    assert f'keytoll_settled_requests_total{{measured="reported",model="{CHAT}"}}' in metrics
    assert key["id"] not in metrics
    assert "users/alice" not in metrics


async def _status_is(client: httpx.AsyncClient, status: int) -> bool:
    return (await client.get("/readyz")).status_code == status


BROKEN_SCRIPTS = [
    pytest.param("handle:clearRouteCache()\nend", 'error("deliberate")\nend', id="at its end"),
    pytest.param(
        "function envoy_on_request(handle)\n", 'function envoy_on_request(handle)\n  error("x")\n', id="at once"
    ),
    pytest.param("return apply(s, edits, model)", "return nothing.at.all", id="amid the splicing"),
]


@pytest.mark.parametrize(("line", "broken"), BROKEN_SCRIPTS)
async def test_a_lua_error_is_an_outage_not_a_free_answer(tmp_path: Path, line: str, broken: str) -> None:
    script = Path(__file__).parents[2] / "src" / "keytoll" / "envoy" / "request.lua"
    text = script.read_text()
    assert text.count(line) == 1
    # Broken before its last line opens the route: whatever else ran, nothing is routed.
    opening = 'headers:replace("x-kt-route", orders["pool"])\n'
    assert text.count(opening) == 1
    mended = text.replace(line, broken).replace(opening, "", line[0] == "h")
    (tmp_path / "broken.lua").write_text(mended)
    swapped = f"filename: {tmp_path / 'broken.lua'}"
    async with gateway_in(
        tmp_path, envoy_yaml=lambda yaml: yaml.replace("filename: lua/request.lua", swapped)
    ) as gateway:
        key = await gateway.new_key()
        async with gateway.http(key) as client:
            sent = {"x-kt-route": f"model/{CHAT}", "x-kt-known": "1"}
            response = await client.post(CHAT_PATH, json={**ASK, "model": "odd"}, headers=sent)
        assert_away(response)
        assert gateway.odd.asked == []
        charge = await gateway.charge(key)
        assert (charge["amount"], charge["status"], charge["attempts"]) == ("0.00", 503, 0)


async def test_als_is_a_source_as_well(tmp_path: Path) -> None:
    """For an Envoy that shares no disk with its Keytoll: the same rows, from gRPC."""

    def with_als(yaml: str) -> str:
        head, _, rest = yaml.partition("          - name: journal\n")
        _, _, rest = rest.partition("          # - name: als\n")
        block, _, tail = rest.partition("\n\n")
        lines = [
            "          - name: als",
            *(line.replace("          # ", "          ", 1) for line in block.splitlines()),
        ]
        return head + "\n".join(lines) + "\n\n" + tail

    async with gateway_in(tmp_path, envoy_yaml=with_als, environment={"KEYTOLL_SOURCE": "als"}) as gateway:
        key = await gateway.new_key()
        for changes in ({}, {"stream": True}, {"model": "nope"}):
            await ask(gateway, key, **changes)
        gateway.odd.script = streaming([b'data: {"choices":[]}\n\n'])
        await ask(gateway, key, model="odd", stream=True)
        plain, streamed, empty = await gateway.charges(key, 3)
        assert (plain["measured"], streamed["measured"], empty["measured"]) == ("reported", "reported", "estimated")
        assert plain["amount"] == streamed["amount"] != "0.00"
        assert not (gateway.run_dir / "journal" / "journal.jsonl").exists()


async def test_a_stop_settles_what_is_left(tmp_path: Path) -> None:
    """User report 27: SIGTERM to all of it, at once after the last answers; every one of them is in the ledger."""
    async with gateway_in(tmp_path) as gateway:
        key = await gateway.new_key()
        async with gateway.http(key) as client:
            body = {"model": "bge-m3", "input": "x"}
            responses = await asyncio.gather(*(client.post("/v1/embeddings", json=body) for _ in range(50)))
        assert {response.status_code for response in responses} == {200}
        database = gateway.run_dir / "keytoll.db"
    store = await SqliteStore.open(database)
    try:
        assert len(await store.list_charges(ChargeQuery(key_id=key["id"], limit=1000))) == 50
    finally:
        await store.close()
