from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keytoll.store.base import Store
from keytoll.store.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store. What is tested through it holds for every implementation."""
    opened = await SqliteStore.open(tmp_path / "keytoll.db")
    yield opened
    await opened.close()
