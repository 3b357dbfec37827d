from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer, postgres_server

from keytoll.store.base import Store
from keytoll.store.postgres import PostgresStore
from keytoll.store.sqlite import SqliteStore


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server that all tests share, each with a database of its own; leave it running."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store. What is tested through it holds for every implementation."""
    opened: Store
    if request.param == "sqlite":
        opened = await SqliteStore.open(tmp_path / "keytoll.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        opened = await PostgresStore.open(await server.emptied_database())
    yield opened
    await opened.close()
