"""The whole of it on a PostgreSQL store: what is charged, who may use the store, and what is done when that is lost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest
from postgres_server import PostgresServer

from e2e.conftest import CHAT, PATIENCE_S, Gateway, gateway_in, until
from keytoll.store.base import ChargeQuery
from keytoll.store.postgres import PostgresStore

ASK = {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True, slots=True)
class Shared:
    """A gateway, and the URL of its store."""

    gateway: Gateway
    url: str


@pytest.fixture(scope="module")
async def shared(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    """A gateway on PostgreSQL, which each test leaves running."""
    url = await postgres.new_database(empty=True)
    folder = tmp_path_factory.mktemp("postgres")
    async with gateway_in(folder, environment={"KEYTOLL_STORE": url}) as gateway:
        yield Shared(gateway, url)


async def test_a_small_key_is_admitted_and_charged_exactly_with_many_requests_at_once(shared: Shared) -> None:
    """The bound of a key's spending is the same on either store, and every answer has its one charge."""
    gateway = shared.gateway
    key = await gateway.new_key(quota={"kind": "total", "limit": "0.01"})
    async with gateway.http(key) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=ASK | {"max_tokens": 20}) for _ in range(60))
        )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) > 0
    charges = await gateway.charges(key, statuses.count(200))
    amounts = [Decimal(charge["amount"]) for charge in charges]
    assert sum(amounts) <= Decimal("0.01") + max(amounts)


async def test_a_keytoll_whose_connections_are_cut_goes_on(shared: Shared) -> None:
    gateway = shared.gateway
    key = await gateway.new_key()
    async with gateway.http(key) as client:
        for _ in range(5):
            assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
            await _cut_all(shared.url)
    await gateway.charges(key, 5)


async def test_of_two_keytolls_that_go_by_one_id_the_older_stops_and_says_why(shared: Shared) -> None:
    """What it admitted is charged by the next one, once."""
    gateway = shared.gateway
    key = await gateway.new_key()
    replica = (gateway.run_dir / "replica").read_text().strip()
    async with gateway.http(key) as client:
        for _ in range(5):
            assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
        store = await PostgresStore.open(shared.url)
        await store.join(replica, lease_s=1, held=())
        await store.close()
        keytoll = gateway.stack.keytoll
        async with asyncio.timeout(PATIENCE_S):
            ended = str(await keytoll.failure())
        assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 503
    assert "ended (exit status 1)" in ended
    assert f"keytoll: another Keytoll has started as the replica {replica}: stopping" in ended
    assert "Traceback" not in ended
    await keytoll.start()
    assert (gateway.run_dir / "replica").read_text().strip() == replica

    async def served() -> bool:
        async with gateway.http(key) as client:
            return (await client.post("/v1/chat/completions", json=ASK)).status_code == 200

    await until(served)
    await gateway.charges(key, 6)


async def test_a_stop_settles_what_is_left(postgres: PostgresServer, tmp_path: Path) -> None:
    url = await postgres.new_database(empty=True)
    async with gateway_in(tmp_path, environment={"KEYTOLL_STORE": url}) as gateway:
        key = await gateway.new_key()
        async with gateway.http(key) as client:
            body = {"model": "bge-m3", "input": "x"}
            responses = await asyncio.gather(*(client.post("/v1/embeddings", json=body) for _ in range(50)))
        assert {response.status_code for response in responses} == {200}
        assert not (gateway.run_dir / "keytoll.db").exists()
    store = await PostgresStore.open(url)
    try:
        assert len(await store.list_charges(ChargeQuery(key_id=key["id"], limit=1000))) == 50
    finally:
        await store.close()


async def _cut_all(url: str) -> None:
    """Have the server close every connection of the Keytoll."""
    connection = await asyncpg.connect(url)
    try:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'keytoll%'"
        assert await connection.fetch(f"{cut} AND datname = current_database()")
    finally:
        await connection.close()
