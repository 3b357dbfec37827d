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


@pytest.fixture(autouse=True)
def _nobody_signed_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may be signed in somewhere; the tests must not be."""
    for name in ("KEYTOLL_SERVER", "KEYTOLL_ACCESS_TOKEN", "RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
