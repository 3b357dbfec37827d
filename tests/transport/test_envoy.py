"""The real Envoy asks: over each transport every caller gets what Check decided for them, or 503."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable

import httpx
import pytest

from keytoll.envoy.check import Handler, Void
from keytoll.envoy.server import EnvoyServer
from keytoll.envoy.transport.server import Ngh2Server
from transport.conftest import TRANSPORTS
from transport.gateway import ECHO, Gateway, allow, envoy
from transport.scripted import until

CALLERS = 32


def server_of(
    transport: str, gateway: Gateway, check: Handler, void: Void = lambda _: None
) -> Ngh2Server | EnvoyServer:
    """A server that is not started yet, where Envoy asks."""
    if transport == "ngh2":
        return Ngh2Server(gateway.socket, check=check, void=void)
    return EnvoyServer(gateway.socket, check=check, void=void, als=None)


@pytest.fixture(scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    """An Envoy whose Check is away until a test serves it."""
    async with envoy(timeout_s=3) as made:
        yield made


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_thirty_two_connections_each_get_their_own_answers(gateway: Gateway, transport: str) -> None:
    async def later(message: bytes) -> bytes:
        await asyncio.sleep(0)
        return allow(message)

    voided: list[bytes] = []

    def check(message: bytes) -> bytes | Awaitable[bytes]:
        return later(message) if len(message) % 2 else allow(message)

    async def call(caller: int) -> None:
        async with httpx.AsyncClient() as client:
            for number in range(caller * 1000, caller * 1000 + 40):
                good = await gateway.ask(client, number)
                assert (good.status_code, good.headers[ECHO]) == (200, str(number))
                assert (await gateway.ask(client, number, key="bad")).status_code == 401

    server = server_of(transport, gateway, check, voided.append)
    await server.start()
    try:
        await _answers(gateway)
        await asyncio.gather(*map(call, range(CALLERS)))
    finally:
        await server.stop(grace_s=1)
    assert not voided, "an answer that arrived was taken back"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("grace_s", [0.0, 1.0], ids=["abrupt", "graceful"])
async def test_restarts_under_load_let_nobody_pass_undecided(gateway: Gateway, transport: str, grace_s: float) -> None:
    seen: Counter[int] = Counter()
    over = asyncio.Event()

    async def call(caller: int) -> None:
        async with httpx.AsyncClient() as client:
            while not over.is_set():
                response = await gateway.ask(client, caller, key="good" if caller % 2 else "bad")
                seen[response.status_code] += 1
                assert response.status_code in ((200, 503) if caller % 2 else (401, 503))
                if response.status_code == 200:
                    assert response.headers[ECHO] == str(caller)

    callers = [asyncio.create_task(call(caller)) for caller in range(CALLERS)]
    for _ in range(4):
        server = server_of(transport, gateway, allow)
        await server.start()
        before = seen[200]
        await until(lambda before=before: seen[200] > before + 100)  # type: ignore[misc]
        refused = seen[503]
        await server.stop(grace_s=grace_s)
        await until(lambda refused=refused: seen[503] > refused)  # type: ignore[misc]
    over.set()
    await asyncio.gather(*callers)
    assert seen[200] > 400
    assert seen[401] > 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_check_that_envoy_gives_up_and_one_whose_caller_leaves_are_cancelled(transport: str) -> None:
    asked = cancelled = 0

    async def wait(message: bytes) -> bytes:
        nonlocal asked, cancelled
        asked += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return message

    async with envoy(timeout_s=1.0) as gateway, httpx.AsyncClient() as client:
        server = server_of(transport, gateway, wait)
        await server.start()
        try:
            assert (await gateway.ask(client, 1)).status_code == 503
            await until(lambda: cancelled == asked > 0)
            before = asked
            leaving = asyncio.create_task(gateway.ask(client, 2))
            await until(lambda: asked > before)
            leaving.cancel()
            await until(lambda: cancelled == asked)
        finally:
            await server.stop(grace_s=1)


async def _answers(gateway: Gateway) -> None:
    """Envoy may still wait before it connects again."""
    async with httpx.AsyncClient() as client:
        async with asyncio.timeout(15):
            while (await gateway.ask(client, 0)).status_code != 200:
                await asyncio.sleep(0.02)
