"""SqliteStore: keys and the ledger in one SQLite file."""

import asyncio
import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import aiosqlite

from keytoll.core.audit import AuditEvent
from keytoll.store.base import Batch, Posted
from keytoll.store.sql.store import DECISIONS_AT_ONCE, SqlStore
from keytoll.store.sql.transactions import Dialect, Values, Work
from keytoll.store.sqlite import archive, queries
from keytoll.store.sqlite.database import (
    READER_PRAGMAS,
    WRITER_PRAGMAS,
    Writer,
    check_sqlite_version,
    connected,
    driver_errors,
    owned,
)
from keytoll.store.sqlite.posting import post
from keytoll.store.sqlite.schema import migrate

T = TypeVar("T")


class SqliteStore(SqlStore):
    """A store in one SQLite file, for one Keytoll. Make it with `open`; its methods are those of `store.base.Store`."""

    dialect: ClassVar[Dialect] = queries

    def __init__(
        self,
        path: Path,
        *,
        writer: Writer,
        lookups: aiosqlite.Connection,
        lists: aiosqlite.Connection,
        resources: AsyncExitStack,
    ) -> None:
        super().__init__()
        self._path = path
        self._writer = writer
        self._lookups = lookups
        self._lists = lists  # apart, so that a Check never waits behind somebody's long list
        self._resources = resources

    @classmethod
    async def open(cls, path: Path, *, busy_timeout_s: float = 5.0) -> "SqliteStore":
        """Own and open the database, made (mode 0600) or migrated if need be. Its folder must be there.

        Raises StoreLocked if another Keytoll owns it, StoreTooNew if a newer one migrated it, and StoreUnavailable.
        `busy_timeout_s` is how long a statement waits for other processes, such as a backup.
        """
        check_sqlite_version()
        path = await asyncio.to_thread(path.resolve)  # so that links to one file lead to one lock
        async with AsyncExitStack() as stack:
            stack.enter_context(owned(path))
            connect = partial(connected, path, busy_timeout_s=busy_timeout_s)
            writer = await stack.enter_async_context(connect(WRITER_PRAGMAS))
            with driver_errors():
                await migrate(writer, path)
            lookups = await stack.enter_async_context(connect(READER_PRAGMAS))
            lists = await stack.enter_async_context(connect(READER_PRAGMAS))
            return cls(path, writer=Writer(writer), lookups=lookups, lists=lists, resources=stack.pop_all())

    async def post(self, batch: Batch) -> Posted:
        """Post a batch in one transaction; see `LedgerStore.post`. `conflicts` are told each time and kept once."""
        return await self._run(partial(post, batch=batch))

    async def archive_charges(self, *, before_us: int, name: str, event: AuditEvent | None) -> int:
        """Move some old rows into `archive-NAME.db` beside the database; see `LedgerStore.archive_charges`."""
        values = {"before_us": before_us, "limit": DECISIONS_AT_ONCE}
        decision_ids = [row[0] for row in await self._read(self._lists, queries.TO_ARCHIVE, values)]
        if not decision_ids:
            return 0
        file = self._path.with_name(f"archive-{name}.db")
        copied = await asyncio.to_thread(archive.copy, self._path, file, decision_ids)
        return await self._run(
            partial(archive.remove, archive=file, decision_ids=decision_ids, copied=copied, event=event)
        )

    async def _look_up(self, statement: str, values: Values) -> Sequence[Any]:
        return await self._read(self._lookups, statement, values)

    async def _list(self, statement: str, values: Values) -> Sequence[Any]:
        return await self._read(self._lists, statement, values)

    async def _read(self, connection: aiosqlite.Connection, statement: str, values: Values) -> Sequence[Any]:
        self._check_open()
        with driver_errors():
            return list(await connection.execute_fetchall(statement, values))

    async def _run(self, work: Work[T]) -> T:
        self._check_open()
        return await self._writer.run(work)

    async def _close(self) -> None:
        await self._writer.underway.finish()
        await self._resources.aclose()

    def _array(self, values: Iterable[str]) -> str:
        return json.dumps(list(values))

    def _is_name_taken(self, error: Exception) -> bool:
        unique = isinstance(error, sqlite3.IntegrityError)
        return unique and str(error) == "UNIQUE constraint failed: keys.owner, keys.name"
