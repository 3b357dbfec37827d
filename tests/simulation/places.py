"""Where a simulated ledger is kept: in a file, or in a PostgreSQL database."""

import asyncio
import re
import sqlite3
import threading
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import asyncpg

from keytoll.store.base import Store
from keytoll.store.postgres import PostgresStore
from keytoll.store.sqlite import SqliteStore
from simulation.ledger import Connection

T = TypeVar("T")


class Place(Protocol):
    """A database that a store can be opened on, again and again."""

    async def open(self) -> Store:
        """Open the store."""

    def connect(self) -> Connection:
        """Connect beside it."""


@dataclass(frozen=True, slots=True)
class File:
    """An SQLite database."""

    path: Path

    async def open(self) -> Store:
        """Open the store."""
        return await SqliteStore.open(self.path)

    def connect(self) -> Connection:
        """Connect beside it."""
        return sqlite3.connect(self.path, isolation_level=None)


@dataclass(frozen=True, slots=True)
class Database:
    """A PostgreSQL database."""

    url: str

    async def open(self) -> Store:
        """Open the store."""
        return await PostgresStore.open(self.url)

    def connect(self) -> Connection:
        """Connect beside it."""
        return _PostgresConnection(self.url)


class _PostgresConnection:
    """A connection that waits for its answers, as `sqlite3`'s do: on a loop of its own, whose time is the real one."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._connection: asyncpg.Connection[asyncpg.Record] = self._wait(asyncpg.connect(url))

    def execute(self, statement: str, values: Sequence[Any] = ()) -> "_Found":
        """Run a statement."""
        return _Found(self._wait(self._connection.fetch(_numbered(statement), *values)))

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of the rows."""
        self._wait(self._connection.executemany(_numbered(statement), list(rows)))

    def close(self) -> None:
        """Close it, and end its loop."""
        self._wait(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


@dataclass(frozen=True, slots=True)
class _Found:
    rows: Sequence[Any]

    def fetchall(self) -> list[Any]:
        """Return all rows."""
        return [tuple(row) for row in self.rows]

    def fetchone(self) -> Any:
        """Return the first row, None for none."""
        return next(iter(self.fetchall()), None)


def _numbered(statement: str) -> str:
    numbers = count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", statement)
