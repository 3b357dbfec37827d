"""PostgresStore: keys and the ledger in a PostgreSQL database."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, NoReturn, TypeVar

import asyncpg

from keytoll.core.allowance import Ask
from keytoll.core.audit import AuditEvent
from keytoll.store.base import Batch, Granted, KeyMonth, Posted
from keytoll.store.postgres import queries, replicas
from keytoll.store.postgres.archive import archive
from keytoll.store.postgres.database import BOUNDS, Bounds, Database, connected, driver_errors
from keytoll.store.postgres.posting import post
from keytoll.store.postgres.schema import migrate
from keytoll.store.replicas import Answer, Behind, Held, Joined, Member, News, Word
from keytoll.store.sql.store import DECISIONS_AT_ONCE, SqlStore
from keytoll.store.sql.transactions import Dialect, Values, Work

T = TypeVar("T")


class PostgresStore(SqlStore):
    """A store in a PostgreSQL database. Make it with `open`; its methods are those of `store.base.Store`."""

    dialect: ClassVar[Dialect] = queries

    def __init__(self, database: Database, url: str) -> None:
        super().__init__()
        self._database = database
        self._url = url
        self._replica: str | None = None

    @classmethod
    async def open(cls, url: str, bounds: Bounds = BOUNDS) -> "PostgresStore":
        """Open the database, migrated if need be. Raises StoreTooNew and StoreUnavailable."""
        await _migrated(url, bounds)
        return cls(await Database.open(url, bounds), url)

    async def post(self, batch: Batch) -> Posted:
        """Post a batch in one transaction; see `LedgerStore.post`. `conflicts` are told each time and kept once."""
        self._check_open()
        return await self._database.post(partial(post, batch=batch, replica=self._replica))

    async def archive_charges(self, *, before_us: int, name: str, event: AuditEvent | None) -> int:
        """Move some old rows into the table `archive_NAME`; see `LedgerStore.archive_charges`."""
        return await self._run(partial(archive, before_us=before_us, limit=DECISIONS_AT_ONCE, name=name, event=event))

    # --- replicas ---

    async def join(self, replica: str, *, lease_s: float, held: Held) -> Joined:
        """Join, or join anew; see `ReplicaStore.join`."""
        joined = await self._run(partial(replicas.join, replica=replica, lease_s=lease_s, held=held))
        self._replica = replica
        return joined

    async def renew(self, member: Member, *, seen: int, lease_s: float) -> News:
        """Extend the lease, and tell what was seen. Raises Lapsed and Superseded."""
        renewal = replicas.renewal(member, seen=seen, lease_s=lease_s)
        self._check_open()
        return replicas.news(member, (await self._database.run(queries.RENEW, renewal))[0])

    async def leave(self, member: Member, *, held: Held) -> None:
        """End the lease; see `ReplicaStore.leave`."""
        await self._run(partial(replicas.leave, member=member, held=held))

    async def ask(self, member: Member, of: KeyMonth, ask: Ask) -> Answer | None:
        """Grant something, if it may be; see `ReplicaStore.ask`. Raises Lapsed."""
        self._check_open()
        return await self._database.grant(partial(replicas.ask, member=member, of=of, ask=ask))

    async def give_back(
        self, member: Member, unused: Sequence[tuple[KeyMonth, int]], *, tell: bool
    ) -> dict[KeyMonth, Granted]:
        """Take amounts back from grants; see `ReplicaStore.give_back`. Raises Lapsed."""
        self._check_open()
        return await self._database.grant(partial(replicas.give_back, member=member, unused=unused, tell_all=tell))

    async def last_change(self) -> int:
        """Return the number of the last change that is committed, 0 for none."""
        return int((await self._look_up(queries.LAST_CHANGE, {}))[0][0])

    async def behind(self, seq: int) -> Sequence[Behind]:
        """Return who is alive and has not seen a change yet."""
        return replicas.behind(await self._look_up(queries.BEHIND, {"seq": seq}))

    async def sweep(self, *, longest_s: float) -> int:
        """Take back what was granted to replicas that are gone; see `ReplicaStore.sweep`."""
        return await self._run(partial(replicas.sweep, longest_s=longest_s))

    async def listen(self, hear: Callable[[Word, str], None]) -> NoReturn:
        """Hear the words that concern all replicas; see `ReplicaStore.listen`."""
        self._check_open()
        await replicas.listen(self._url, hear)

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
