"""How much is fuzzed, from which seed, and what is printed of it."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
import structlog
from settlement.conftest import desk as desk

from keytoll.store.base import Store
from keytoll.store.sqlite import SqliteStore

MESSAGES = int(os.environ.get("KEYTOLL_FUZZ_MESSAGES", "100000"))
"""In all; each test takes its share of it."""

SEED = int(os.environ.get("KEYTOLL_FUZZ_SEED", "20261125"))


def share(percent: int) -> int:
    """Return how many messages are a test's."""
    return max(1, MESSAGES * percent // 100)


def rng_of(name: str) -> Random:
    """Return the random numbers of a test: by seed the same ones, whatever else runs."""
    return Random(f"{SEED} {name}")


@contextmanager
def evidence(number: int, message: bytes) -> Iterator[None]:
    """Tell the message and its seed if what is done with it fails."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"message {number} of seed {SEED} broke it: {message[:3000]!r} …") from error


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], None]]:
    """Print what was done and how long it took, past pytest's capture. Logs are kept in memory meanwhile."""
    started_s = time.monotonic()
    lines: list[str] = []
    with structlog.testing.capture_logs():
        yield lines.append
    with capsys.disabled():
        print(f"\nfuzz: {'; '.join(lines)}; seed {SEED}, {time.monotonic() - started_s:.1f} s")


@pytest.fixture
async def store(database: Path) -> AsyncIterator[Store]:
    """An empty ledger in a file. What is fuzzed is in front of the store, which is the same whichever it is."""
    opened = await SqliteStore.open(database)
    yield opened
    await opened.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the desk keeps its ledger."""
    return tmp_path / "keytoll.db"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a long fuzz its time."""
    for item in items:
        if "fuzz" in item.nodeid.split("/"):
            item.add_marker(pytest.mark.timeout(120 + MESSAGES // 500))
