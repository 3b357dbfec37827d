"""SqliteStore: keys and the ledger in one SQLite file."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import aiosqlite

from keytoll.core.audit import AuditEvent
from keytoll.core.keys import Key
from keytoll.core.ledger import Charge
from keytoll.core.owners import AccessToken, Member, Organization, User
from keytoll.core.permissions import Person
from keytoll.core.pricing import Prices
from keytoll.core.usage import UsageRow
from keytoll.store.base import (
    MAX_ONCE,
    AuditQuery,
    Batch,
    ChargeQuery,
    KeyQuery,
    NameTaken,
    Once,
    Posted,
    PriceRecord,
    StoredKey,
    StoreUnavailable,
    UsageQuery,
)
from keytoll.store.sqlite import archive, owning, queries, rows
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

_DECISIONS_AT_ONCE = 1000
"""How many decisions one statement looks up: more would hold up the event loop while their list is made."""


class SqliteStore:
    """A store in one SQLite file, for one Keytoll. Make it with `open`; its methods are those of `store.base.Store`."""

    def __init__(
        self,
        path: Path,
        *,
        writer: Writer,
        lookups: aiosqlite.Connection,
        lists: aiosqlite.Connection,
        resources: AsyncExitStack,
    ) -> None:
        self._path = path
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
            return cls(path, writer=Writer(writer), lookups=lookups, lists=lists, resources=stack.pop_all())

    # --- keys ---

    async def create_key(
        self, key: Key, *, event: AuditEvent, sign_up: AuditEvent | None = None, once: Once | None = None
    ) -> None:
        """Keep a new key; see `KeyStore.create_key`."""

        async def create(connection: aiosqlite.Connection) -> None:
            await owning.require_owner(connection, key, sign_up)
            await connection.execute_fetchall(queries.INSERT_KEY, rows.key_row(key))
            await _remember(connection, once)
            await owning.tell(connection, [event])

        with _name_taken(key):
            await self._run(create)

    async def key_by_digest(self, digest: bytes) -> StoredKey | None:
        """Return the key whose secret, or whose old one, has this SHA-256, with its totals, in one consistent read."""
        found = await self._read(self._lookups, queries.KEY_BY_DIGEST, {"digest": digest})
        return rows.stored_key(found[0]) if found else None

    async def key_by_id(self, key_id: str) -> StoredKey | None:
        """Return the key of this id, with its totals, in one consistent read."""
        found = await self._read(self._lookups, queries.KEY_BY_ID, {"id": key_id})
        return rows.stored_key(found[0]) if found else None

    async def key_named(self, owner: str, name: str) -> str | None:
        """Return the id of an owner's key of this name."""
        found = await self._read(self._lookups, queries.KEY_NAMED, {"owner": owner, "name": name})
        return found[0][0] if found else None

    async def key_names(self, key_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the names of keys by their ids, those of deleted keys too."""
        asked = json.dumps(list(dict.fromkeys(key_ids)))
        return dict(await self._read(self._lists, queries.KEY_NAMES, {"key_ids": asked}))

    async def list_keys(self, query: KeyQuery, *, now_us: int, month: str) -> Sequence[StoredKey]:
        """Return the keys that match; see `KeyStore.list_keys`."""
        values = rows.key_query(query) | {"now_us": now_us, "month": month}
        found = await self._read(self._lists, queries.list_keys(query), values)
        return [rows.stored_key(row) for row in found]

    async def update_key(self, key: Key, *, event: AuditEvent) -> bool:
        """Write what is edited of a key; False if there is none of its id. Raises NameTaken."""
        with _name_taken(key):
            return bool(await self._change(queries.UPDATE_KEY, rows.edited_row(key), event))

    async def rotate_key(self, key: Key, *, event: AuditEvent, once: Once | None = None) -> bool:
        """Write the secrets of a key, and that it was asked for; False if there is none of its id."""
        return bool(await self._change(queries.ROTATE_KEY, rows.rotated_row(key), event, once))

    async def asked_once(self, once_id: bytes) -> Once | None:
        """Return what was asked for under this id, if that is remembered."""
        found = await self._read(self._lookups, queries.ASKED, {"id": once_id})
        return Once(*found[0]) if found else None

    async def forget_asked(self, *, before_us: int) -> None:
        """Forget what was asked for before an instant."""
        await self._write(queries.FORGET_ASKED, {"before_us": before_us})

    async def delete_key(self, key_id: str, *, deleted_at_us: int, event: AuditEvent) -> bool:
        """Delete a key; False if there is none of this id."""
        return bool(await self._change(queries.DELETE_KEY, {"id": key_id, "deleted_at_us": deleted_at_us}, event))

    # --- owners ---

    async def create_user(self, user: User, *, event: AuditEvent) -> None:
        """Keep a new person. Raises OwnerTaken and OwnerDeleted."""
        await self._run(partial(owning.create, owner=user.owner, at_us=user.created_at_us, event=event))

    async def create_organization(self, organization: Organization, *, admin: Member | None, event: AuditEvent) -> None:
        """Keep a new organization, with one member or none. Raises OwnerTaken, OwnerDeleted and OwnerNotFound."""
        at_us = organization.created_at_us
        await self._run(partial(owning.create, owner=organization.owner, at_us=at_us, event=event, first=admin))

    async def delete_owner(
        self, owner: str, *, deleted_at_us: int, event: AuditEvent, key_event: Callable[[Key], AuditEvent]
    ) -> Sequence[Key] | None:
        """Delete a person or an organization with all that belongs to it; see `OwnerStore.delete_owner`."""
        return await self._run(
            partial(owning.delete, owner=owner, deleted_at_us=deleted_at_us, event=event, key_event=key_event)
        )

    async def user(self, name: str) -> User | None:
        """Return a person."""
        found = await self._read(self._lookups, queries.USER, {"name": name})
        return rows.user(found[0]) if found else None

    async def list_users(self, *, after: str | None, limit: int) -> Sequence[User]:
        """Return people by ascending name, those after the name `after`."""
        found = await self._read(self._lists, queries.LIST_USERS, {"after": after or "", "limit": limit})
        return [rows.user(row) for row in found]

    async def organization(self, name: str) -> Organization | None:
        """Return an organization."""
        found = await self._read(self._lookups, queries.ORGANIZATION, {"name": name})
        return rows.organization(found[0]) if found else None

    async def list_organizations(self, *, of: str | None, after: str | None, limit: int) -> Sequence[Organization]:
        """Return organizations by ascending name: all, or those that a person belongs to."""
        statement = queries.LIST_ORGANIZATIONS if of is None else queries.LIST_ORGANIZATIONS_OF_USER
        found = await self._read(self._lists, statement, {"of": of, "after": after or "", "limit": limit})
        return [rows.organization(row) for row in found]

    async def person_by_token(self, digest: bytes) -> Person | None:
        """Return whose access token has this SHA-256, with their roles, in one consistent read."""
        found = await self._read(self._lookups, queries.PERSON_BY_TOKEN, {"digest": digest})
        return rows.person(found[0]) if found else None

    async def put_access_token(self, user: str, token: AccessToken, *, event: AuditEvent) -> None:
        """Give a person an access token, in the place of the one before. Raises OwnerNotFound."""
        await self._run(partial(owning.put_token, user=user, token=token, event=event))

    async def drop_access_token(self, user: str, *, event: AuditEvent) -> bool:
        """Take a person's access token away; False if there is none."""
        return bool(await self._change(queries.DROP_TOKEN, {"user": user}, event))

    async def member(self, organization: str, user: str) -> Member | None:
        """Return a member."""
        found = await self._read(self._lookups, queries.MEMBER, {"organization": organization, "user": user})
        return rows.member(found[0]) if found else None

    async def list_members(self, organization: str, *, after: str | None, limit: int) -> Sequence[Member]:
        """Return members by ascending name, those after the name `after`."""
        values = {"organization": organization, "after": after or "", "limit": limit}
        return [rows.member(row) for row in await self._read(self._lists, queries.LIST_MEMBERS, values)]

    async def put_member(self, organization: str, member: Member, *, event: AuditEvent, keep_an_admin: bool) -> None:
        """Let a person belong to an organization, or have another role in it. Raises OwnerNotFound and LastAdmin."""
        put = partial(owning.put_member, organization=organization, member=member, keep_an_admin=keep_an_admin)
        await self._run(partial(put, event=event))

    async def remove_member(self, organization: str, user: str, *, event: AuditEvent, keep_an_admin: bool) -> bool:
        """Remove a member; False if there is none. Raises LastAdmin."""
        remove = partial(owning.remove_member, organization=organization, user=user, keep_an_admin=keep_an_admin)
        return await self._run(partial(remove, event=event))

    # --- the audit log ---

    async def list_events(self, query: AuditQuery) -> Sequence[AuditEvent]:
        """Return the events that match, newest first; none if `after` is unknown."""
        found = await self._read(self._lists, queries.list_events(query), asdict(query))
        return [rows.event(row) for row in found]

    # --- the ledger ---

    async def post(self, batch: Batch) -> Posted:
        """Post a batch in one transaction; see `LedgerStore.post`. `conflicts` are told each time and kept once."""
        return await self._run(partial(post, batch=batch))

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

    async def archive_charges(self, *, before_us: int, name: str, event: AuditEvent | None) -> int:
        """Move some old rows into `archive-NAME.db` beside the database; see `LedgerStore.archive_charges`."""
        values = {"before_us": before_us, "limit": _DECISIONS_AT_ONCE}
        decision_ids = [row[0] for row in await self._read(self._lists, queries.TO_ARCHIVE, values)]
        if not decision_ids:
            return 0
        file = self._path.with_name(f"archive-{name}.db")
        copied = await asyncio.to_thread(archive.copy, self._path, file, decision_ids)
        return await self._run(
            partial(archive.remove, archive=file, decision_ids=decision_ids, copied=copied, event=event)
        )

    async def owner_totals(self, owner: str) -> Mapping[str, int]:
        """Return what an owner spent, by month, in nano-units."""
        return dict(await self._read(self._lists, queries.OWNER_TOTALS, {"owner": owner}))

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return the sums of charges and corrections, one for each group, sorted as the groups are."""
        values = {"owner": query.owner, "since": query.since, "until": query.until, "limit": query.limit}
        found = await self._read(self._lists, queries.usage(query), values)
        return [rows.usage(row) for row in found if row[-1] is not None]  # SQL sums nothing up to one row of NULLs

    async def note_prices(self, model_prices: Sequence[tuple[str, int, Prices]], at_us: int) -> None:
        """Keep which models have which prices from when, and the price versions, in one transaction."""

        async def note(connection: aiosqlite.Connection) -> None:
            await connection.executemany(
                queries.INSERT_PRICES, (rows.prices_row(prices) for *_, prices in model_prices)
            )
            await connection.executemany(queries.NOTE_PRICES, (rows.noted_row(*noted, at_us) for noted in model_prices))

        await self._run(note)

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

    async def _run(self, work: Callable[[aiosqlite.Connection], Coroutine[Any, Any, T]]) -> T:
        self._check_open()
        return await self._writer.run(work)

    async def _write(self, statement: str, values: Mapping[str, Any]) -> list[rows.Row]:
        async def write(connection: aiosqlite.Connection) -> list[rows.Row]:
            return list(await connection.execute_fetchall(statement, values))

        return await self._run(write)

    async def _change(
        self, statement: str, values: Mapping[str, Any], event: AuditEvent, once: Once | None = None
    ) -> list[rows.Row]:
        """Write, and tell of it in the same transaction. If nothing was there to change, nothing is told."""

        async def change(connection: aiosqlite.Connection) -> list[rows.Row]:
            changed: list[rows.Row] = list(await connection.execute_fetchall(statement, values))
            if changed:
                await _remember(connection, once)
                await owning.tell(connection, [event])
            return changed

        return await self._run(change)


async def _remember(connection: aiosqlite.Connection, once: Once | None) -> None:
    if once is not None:
        await connection.execute_fetchall(queries.INSERT_ASKED, rows.asked_row(once))
        await connection.execute_fetchall(queries.FORGET_MOST_ASKED, {"kept": MAX_ONCE})


@contextmanager
def _name_taken(key: Key) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        if str(error) == "UNIQUE constraint failed: keys.owner, keys.name":
            raise NameTaken(f'{key.owner} has another key named "{key.name}"') from error
        raise
