from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving import Clock, Operated, operated


@pytest.fixture
async def keytoll(tmp_path: Path) -> AsyncIterator[Operated]:
    """A served operator API over an empty store, at the instant NOW_US."""
    async with operated(tmp_path, clock=Clock()) as running:
        yield running
