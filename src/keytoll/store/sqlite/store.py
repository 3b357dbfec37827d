"""SqliteStore: keys and the ledger in one SQLite file."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import aiosqlite

from keytoll.core.keys import Key
from keytoll.core.ledger import Charge
from keytoll.core.pricing import Prices
from keytoll.store.base import (
    MAX_ONCE,
    Batch,
    ChargeQuery,
    NameTaken,
    Once,
    Posted,
    PriceRecord,
    StoredKey,
    StoreUnavailable,
)
from keytoll.store.sqlite import queries, rows
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

_DECISIONS_AT_ONCE = 1000
"""How many decisions one statement looks up: more would hold up the event loop while their list is made."""


class SqliteStore:
    """A store in one SQLite file, for one Keytoll. Make it with `open`; its methods are those of `store.base.Store`."""

    def __init__(
        self,
        *,
        writer: Writer,
        lookups: aiosqlite.Connection,
        lists: aiosqlite.Connection,
        resources: AsyncExitStack,
    ) -> None:
        self._writer = writer
        self._lookups = lookups
        self._lists = lists  # apart, so that a Check never waits behind somebody's long list
        self._resources = resources
        self._closing: asyncio.Task[None] | None = None

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
            return cls(writer=Writer(writer), lookups=lookups, lists=lists, resources=stack.pop_all())

    # --- keys ---

    async def create_key(self, key: Key, once: Once | None = None) -> None:
        """Keep a new key, and that it was asked for. Raises NameTaken."""
        with _name_taken(key):
            await self._write_once(queries.INSERT_KEY, rows.key_row(key), once)

    async def key_by_digest(self, digest: bytes) -> StoredKey | None:
        """Return the key whose secret, or whose old one, has this SHA-256, with its totals, in one consistent read."""
        found = await self._read(self._lookups, queries.KEY_BY_DIGEST, {"digest": digest})
        return rows.stored_key(found[0]) if found else None

    async def key_by_id(self, key_id: str) -> StoredKey | None:
        """Return the key of this id, with its totals, in one consistent read."""
        found = await self._read(self._lookups, queries.KEY_BY_ID, {"id": key_id})
        return rows.stored_key(found[0]) if found else None

    async def list_keys(self, *, owner: str | None, after: str | None, limit: int) -> Sequence[StoredKey]:
        """Return keys by ascending id (so by creation), of one owner or of all, those after the id `after`."""
        statement = queries.LIST_KEYS if owner is None else queries.LIST_KEYS_OF_OWNER
        found = await self._read(self._lists, statement, {"owner": owner, "after": after or "", "limit": limit})
        return [rows.stored_key(row) for row in found]

    async def update_key(self, key: Key) -> bool:
        """Write what is edited of a key; False if there is none of its id. Raises NameTaken."""
        with _name_taken(key):
            return bool(await self._write(queries.UPDATE_KEY, rows.edited_row(key)))

    async def rotate_key(self, key: Key, once: Once | None = None) -> bool:
        """Write the secrets of a key, and that it was asked for; False if there is none of its id."""
        return bool(await self._write_once(queries.ROTATE_KEY, rows.rotated_row(key), once))

    async def asked_once(self, once_id: bytes) -> Once | None:
        """Return what was asked for under this id, if that is remembered."""
        found = await self._read(self._lookups, queries.ASKED, {"id": once_id})
        return Once(*found[0]) if found else None

    async def forget_asked(self, *, before_us: int) -> None:
        """Forget what was asked for before an instant."""
        await self._write(queries.FORGET_ASKED, {"before_us": before_us})

    async def delete_key(self, key_id: str, *, deleted_at_us: int) -> bool:
        """Delete a key; False if there is none of this id."""
        return bool(await self._write(queries.DELETE_KEY, {"id": key_id, "deleted_at_us": deleted_at_us}))

    # --- the ledger ---

    async def post(self, batch: Batch) -> Posted:
        """Post a batch in one transaction; see `LedgerStore.post`. `conflicts` are told each time and kept once."""
        self._check_open()
        return await self._writer.run(partial(post, batch=batch))

    async def charge(self, charge_id: str) -> Charge | None:
        """Return the row of this id, of any kind."""
        found = await self._read(self._lists, queries.CHARGE, {"id": charge_id})
        return rows.charge(found[0]) if found else None

    async def list_charges(self, query: ChargeQuery) -> Sequence[Charge]:
        """Return the charges and corrections that match, newest admission first; none if `after` is unknown."""
        found = await self._read(self._lists, queries.list_charges(query), asdict(query))
        return [rows.charge(row) for row in found]

    async def list_unsettled(self, *, after: str | None, limit: int, settled_later: bool) -> Sequence[Charge]:
        """Return unsettled rows, newest admission first: the open ones or all; none if `after` is unknown."""
        statement = queries.list_unsettled(after=after, settled_later=settled_later)
        found = await self._read(self._lists, statement, {"after": after, "limit": limit})
        return [rows.charge(row) for row in found]

    async def count_unsettled(self) -> int:
        """Return how many unsettled rows are open."""
        found = await self._read(self._lists, queries.COUNT_UNSETTLED, {})
        return int(found[0][0])

    async def settled(self, decision_ids: Sequence[UUID]) -> set[UUID]:
        """Return those of the decisions that have a row of any kind."""
        settled: set[UUID] = set()
        for start in range(0, len(decision_ids), _DECISIONS_AT_ONCE):
            asked = json.dumps([str(id_) for id_ in decision_ids[start : start + _DECISIONS_AT_ONCE]])
            settled.update(
                UUID(row[0]) for row in await self._read(self._lists, queries.SETTLED, {"decision_ids": asked})
            )
        return settled

    async def owner_totals(self, owner: str) -> Mapping[str, int]:
        """Return what an owner spent, by month, in nano-units."""
        return dict(await self._read(self._lists, queries.OWNER_TOTALS, {"owner": owner}))

    async def add_prices(self, prices: Sequence[Prices]) -> None:
        """Keep price versions by their ids. A version that is there already stays as it is."""

        async def add(connection: aiosqlite.Connection) -> None:
            await connection.executemany(queries.INSERT_PRICES, map(rows.prices_row, prices))

        self._check_open()
        await self._writer.run(add)

    async def note_prices(self, model_prices: Sequence[tuple[str, int, Prices]], at_us: int) -> None:
        """Keep which models have which prices from when, and the price versions, in one transaction."""

        async def note(connection: aiosqlite.Connection) -> None:
            await connection.executemany(
                queries.INSERT_PRICES, (rows.prices_row(prices) for *_, prices in model_prices)
            )
            await connection.executemany(queries.NOTE_PRICES, (rows.noted_row(*noted, at_us) for noted in model_prices))

        self._check_open()
        await self._writer.run(note)

    async def price_history(self, model: str) -> Sequence[PriceRecord]:
        """Return all that was noted of a model's prices, by the instant that they apply from, then as it was noted."""
        found = await self._read(self._lists, queries.PRICE_HISTORY, {"model": model})
        return [PriceRecord(*row) for row in found]

    async def prices(self, price_id: str) -> Prices | None:
        """Return the price version of this id."""
        found = await self._read(self._lookups, queries.PRICES, {"id": price_id})
        return rows.prices(found[0]) if found else None

    async def positions(self) -> Mapping[str, int]:
        """Return the offset of every journal file that is known, by the file's identity."""
        return dict(await self._read(self._lists, queries.POSITIONS, {}))

    async def forget_positions(self, files: Sequence[str]) -> None:
        """Drop the positions of journal files that are gone."""
        await self._write(queries.FORGET_POSITIONS, {"files": json.dumps(list(files))})

    # --- the store itself ---

    async def keep_currency(self, currency: str) -> str:
        """Note the currency of the ledger at the first call; return the one that is kept."""
        found = await self._write(queries.KEEP_CURRENCY, {"currency": currency})
        return str(found[0][0])

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""
        await self._read(self._lookups, queries.REVISION, {})

    async def close(self) -> None:
        """Finish what is running and close. Later calls raise StoreUnavailable; a second close is harmless."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.finish()
        await self._resources.aclose()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreUnavailable("the store is closed")

    async def _read(self, connection: aiosqlite.Connection, statement: str, values: Mapping[str, Any]) -> list[Any]:
        self._check_open()
        with driver_errors():
            return list(await connection.execute_fetchall(statement, values))

    async def _write(self, statement: str, values: Mapping[str, Any] | rows.Row) -> list[rows.Row]:
        async def write(connection: aiosqlite.Connection) -> list[rows.Row]:
            return list(await connection.execute_fetchall(statement, values))

        self._check_open()
        return await self._writer.run(write)

    async def _write_once(
        self, statement: str, values: Mapping[str, Any] | rows.Row, once: Once | None
    ) -> list[rows.Row]:
        """Write, and in the same transaction that it was asked for. If nothing was there to change, nothing is noted."""

        async def write(connection: aiosqlite.Connection) -> list[rows.Row]:
            changed: list[rows.Row] = list(await connection.execute_fetchall(statement, values))
            if once is not None and changed:
                await connection.execute_fetchall(queries.INSERT_ASKED, rows.asked_row(once))
                await connection.execute_fetchall(queries.FORGET_MOST_ASKED, {"kept": MAX_ONCE})
            return changed

        self._check_open()
        return await self._writer.run(write)


@contextmanager
def _name_taken(key: Key) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        if str(error) == "UNIQUE constraint failed: keys.owner, keys.name":
            raise NameTaken(f'{key.owner} has another key named "{key.name}"') from error
        raise
