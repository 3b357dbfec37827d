import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving import Operated, Socket, operated, served_socket


@pytest.fixture(scope="session")
async def operator_socket(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Socket]:
    """An operator's socket that is served all the time."""
    async with served_socket(tmp_path_factory.mktemp("run")) as served:
        yield served


@pytest.fixture
async def keytoll(operator_socket: Socket, tmp_path: Path) -> AsyncIterator[Operated]:
    """A served operator API over an empty store, at the present instant."""
    async with operated(operator_socket, tmp_path) as running:
        running.clock.now_us = time.time_ns() // 1000  # the command line reads the real clock
        yield running
