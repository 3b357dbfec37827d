"""The archive of a PostgreSQL store: a table."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from postgres_server import PostgresServer
from store.builders import make_charge
from store.test_archive import LATER_US, archived, posted

from keytoll.store.base import Batch
from keytoll.store.postgres import PostgresStore
from keytoll.store.postgres.database import connected


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.new_database()


@pytest.fixture
async def shared(url: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(url)
    yield store
    await store.close()


async def test_the_archive_has_the_rows_whole(shared: PostgresStore, url: str) -> None:
    await posted(shared)
    async with connected(url) as connection:
        whole = await connection.fetch("SELECT * FROM charges ORDER BY seq LIMIT 3")
        await archived(shared)
        assert await connection.fetch("SELECT * FROM archive_2026_09_22 ORDER BY seq") == whole


async def test_two_that_archive_at_once_move_each_row_once(shared: PostgresStore, url: str) -> None:
    await shared.post(Batch([make_charge() for _ in range(2500)]))
    assert sum(await asyncio.gather(*(archived(shared) for _ in range(3)))) == 2500
    async with connected(url) as connection:
        assert await connection.fetchval("SELECT COUNT(*) FROM archive_2026_09_22") == 2500


async def test_nobody_removes_a_row_that_is_not_archived(shared: PostgresStore, url: str) -> None:
    await posted(shared)
    async with connected(url) as connection:
        for statement in ("DELETE FROM charges", "TRUNCATE charges CASCADE"):
            with pytest.raises(asyncpg.RaiseError, match="append-only"):
                await connection.execute(statement)


async def test_a_name_is_no_way_into_the_database(shared: PostgresStore) -> None:
    with pytest.raises(ValueError, match="can't name an archive"):
        await shared.archive_charges(before_us=LATER_US, name="x (y int); --", event=None)
