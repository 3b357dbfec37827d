from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer

from keytoll.store.base import Store
from keytoll.store.postgres import PostgresStore
from keytoll.store.sqlite import SqliteStore


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store. What is tested through it holds for every implementation."""
    opened: Store
    if request.param == "sqlite":
        opened = await SqliteStore.open(tmp_path / "keytoll.db")
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        opened = await PostgresStore.open(await postgres.emptied_database())
    yield opened
    await opened.close()
