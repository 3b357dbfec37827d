"""The SQLite file: who owns it, connections to it, transactions on it, and what its driver's errors mean."""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from keytoll.store.base import StoreLocked, StoreUnavailable
from keytoll.store.sql.transactions import Dialect, Underway, Values, Work
from keytoll.store.sqlite import queries

_Result = TypeVar("_Result")

OLDEST_SQLITE = (3, 37)
"""The first with STRICT tables."""

WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # WAL's usual NORMAL may lose the last commits when the power fails. A charge whose journal position is committed
    # is never read again, so its commit has to last.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
READER_PRAGMAS = ("PRAGMA query_only = ON",)


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Own the database file, made if need be, against any other Keytoll. Raises StoreLocked, StoreUnavailable.

    The lock is on a file beside it, since SQLite's own exclusive mode would keep backup tools out as well, and since
    closing any handle of the database file drops the locks that SQLite has on it in this process.
    """
    with _opened(Path(f"{path}.lock")) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreLocked(f"{path} is in use by another Keytoll, which holds {path}.lock") from error
        with _opened(path):  # for its mode: SQLite would make it readable for all, and gives its WAL the same mode
            pass
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"can't open {path}: {error.strerror}") from error
    try:
        yield handle
    finally:
        os.close(handle)


@asynccontextmanager
async def connected(
    path: Path, pragmas: tuple[str, ...], *, busy_timeout_s: float
) -> AsyncIterator[aiosqlite.Connection]:
    """Open a connection, and close it in the end. Its transactions are explicit."""
    with driver_errors():
        connection = await aiosqlite.connect(path, timeout=busy_timeout_s, isolation_level=None)
    try:
        with driver_errors():
            for pragma in pragmas:
                await connection.execute_fetchall(pragma)
        yield connection
    finally:
        await connection.close()


class _Transaction:
    """An open transaction of the writer."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self.dialect: Dialect = queries

    async def fetch(self, statement: str, values: Values = ()) -> Sequence[Any]:
        """Run a statement and return the rows that it finds or returns."""
        return list(await self._connection.execute_fetchall(statement, values))

    async def repeat(self, statement: str, rows: Iterable[Values]) -> None:
        """Run a statement for each of the rows."""
        await self._connection.executemany(statement, rows)


class Writer:
    """The one connection that writes. Its transactions run one at a time, and each to its end."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self.underway = Underway()

    async def run(self, work: Work[_Result]) -> _Result:
        """Run the work in a transaction: committed if it returns, rolled back if it raises."""
        return await self.underway.run(self._transaction(work))

    async def _transaction(self, work: Work[_Result]) -> _Result:
        async with self._turn:
            with driver_errors():
                try:
                    await self._connection.execute_fetchall("BEGIN IMMEDIATE")
                    result = await work(_Transaction(self._connection))
                    await self._connection.commit()
                except BaseException:
                    # Also after a commit that failed (disk full). Does nothing where SQLite rolled back by itself.
                    await self._connection.rollback()
                    raise
        return result


_OUTAGES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
"""SQLite's primary result codes that tell of the file, the disk or the machine, and not of a mistake in a statement."""


@contextmanager
def driver_errors() -> Iterator[None]:
    """Raise StoreUnavailable for an outage, with its cause. Anything else is a mistake of ours and goes on as it is."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _OUTAGES:
            raise StoreUnavailable(f"SQLite: {error}") from error
        raise


def check_sqlite_version() -> None:
    """Raise StoreUnavailable if Python's SQLite is too old."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StoreUnavailable(f"SQLite {oldest} or newer is needed; this Python has {sqlite3.sqlite_version}")
