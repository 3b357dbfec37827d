"""PostgresStore: keys and the ledger in a PostgreSQL database."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import asyncpg

from keytoll.core.audit import AuditEvent
from keytoll.store.base import Batch, Posted
from keytoll.store.postgres import queries
from keytoll.store.postgres.archive import archive
from keytoll.store.postgres.database import BOUNDS, Bounds, Database, connected, driver_errors
from keytoll.store.postgres.posting import post
from keytoll.store.postgres.schema import migrate
from keytoll.store.sql.store import DECISIONS_AT_ONCE, SqlStore
from keytoll.store.sql.transactions import Dialect, Values, Work

T = TypeVar("T")


class PostgresStore(SqlStore):
    """A store in a PostgreSQL database. Make it with `open`; its methods are those of `store.base.Store`."""

    dialect: ClassVar[Dialect] = queries

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    @classmethod
    async def open(cls, url: str, bounds: Bounds = BOUNDS) -> "PostgresStore":
        """Open the database, migrated if need be. Raises StoreTooNew and StoreUnavailable."""
        await _migrated(url, bounds)
        return cls(await Database.open(url, bounds))

    async def post(self, batch: Batch) -> Posted:
        """Post a batch in one transaction; see `LedgerStore.post`. `conflicts` are told each time and kept once."""
        self._check_open()
        return await self._database.post(partial(post, batch=batch))

    async def archive_charges(self, *, before_us: int, name: str, event: AuditEvent | None) -> int:
        """Move some old rows into the table `archive_NAME`; see `LedgerStore.archive_charges`."""
        return await self._run(partial(archive, before_us=before_us, limit=DECISIONS_AT_ONCE, name=name, event=event))

    async def _look_up(self, statement: str, values: Values) -> Sequence[Any]:
        self._check_open()
        return await self._database.look_up(statement, values)

    async def _list(self, statement: str, values: Values) -> Sequence[Any]:
        self._check_open()
        return await self._database.read_list(statement, values)

    async def _run(self, work: Work[T]) -> T:
        self._check_open()
        return await self._database.change(work)

    async def _close(self) -> None:
        await self._database.close()

    def _array(self, values: Iterable[str]) -> list[str]:
        return list(values)

    def _is_name_taken(self, error: Exception) -> bool:
        return isinstance(error, asyncpg.UniqueViolationError) and error.constraint_name == "keys_name"


async def _migrated(url: str, bounds: Bounds) -> None:
    async with connected(url, bounds) as connection:
        with driver_errors():
            await migrate(connection)
