"""SqlStore: keys, owners and the ledger, in statements that either database runs."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from keytoll.core.audit import AuditEvent
from keytoll.core.keys import Key
from keytoll.core.ledger import Charge
from keytoll.core.owners import AccessToken, Member, Organization, User
from keytoll.core.permissions import Person
from keytoll.core.pricing import Prices
from keytoll.core.usage import UsageRow
from keytoll.store.base import (
    MAX_ONCE,
    AskedMeanwhile,
    AuditQuery,
    ChargeQuery,
    KeyChanged,
    KeyQuery,
    NameTaken,
    Once,
    PriceRecord,
    StoredKey,
    StoreUnavailable,
    UsageQuery,
)
from keytoll.store.sql import owning, queries, rows
from keytoll.store.sql.transactions import Dialect, Transaction, Values, Work

T = TypeVar("T")

DECISIONS_AT_ONCE = 1000
"""How many decisions one statement looks up: more would hold up the event loop while their list is made."""


class SqlStore(ABC):
    """A store in an SQL database; its methods are those of `store.base.Store`. What differs is at its end."""

    dialect: ClassVar[Dialect]

    def __init__(self) -> None:
        self._closing: asyncio.Task[None] | None = None

    # --- keys ---

    async def create_key(
        self, key: Key, *, event: AuditEvent, sign_up: AuditEvent | None = None, once: Once | None = None
    ) -> None:
        """Keep a new key; see `KeyStore.create_key`."""

        async def create(transaction: Transaction) -> None:
            await owning.require_owner(transaction, key, sign_up)
            await transaction.fetch(queries.INSERT_KEY, rows.key_row(key))
            await _remember(transaction, once)
            await owning.tell(transaction, [event])

        with self._name_taken(key):
            await self._run(create)

    async def key_by_digest(self, digest: bytes) -> StoredKey | None:
        """Return the key whose secret, or whose old one, has this SHA-256, with its totals, in one consistent read."""
        found = await self._look_up(self.dialect.KEY_BY_DIGEST, {"digest": digest})
        return rows.stored_key(found[0]) if found else None

    async def key_by_id(self, key_id: str) -> StoredKey | None:
        """Return the key of this id, with its totals, in one consistent read."""
        found = await self._look_up(self.dialect.KEY_BY_ID, {"id": key_id})
        return rows.stored_key(found[0]) if found else None

    async def key_named(self, owner: str, name: str) -> str | None:
        """Return the id of an owner's key of this name."""
        found = await self._look_up(queries.KEY_NAMED, {"owner": owner, "name": name})
        return found[0][0] if found else None

    async def key_names(self, key_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the names of keys by their ids, those of deleted keys too."""
        asked = self._array(dict.fromkeys(key_ids))
        return dict(await self._list(self.dialect.KEY_NAMES, {"key_ids": asked}))

    async def list_keys(self, query: KeyQuery, *, now_us: int, month: str) -> Sequence[StoredKey]:
        """Return the keys that match; see `KeyStore.list_keys`."""
        values = rows.key_query(query) | {"now_us": now_us, "month": month}
        found = await self._list(self.dialect.list_keys(query), values)
        return [rows.stored_key(row) for row in found]

    async def update_key(self, key: Key, *, event: AuditEvent, before: Key | None = None) -> bool:
        """Write what is edited of a key; False if there is none of its id. Raises NameTaken and KeyChanged."""
        with self._name_taken(key):
            return bool(await self._change(queries.UPDATE_KEY, rows.edited_row(key), event, before=before))

    async def rotate_key(
        self, key: Key, *, event: AuditEvent, before: Key | None = None, once: Once | None = None
    ) -> bool:
        """Write the secrets of a key, and that it was asked for; see `KeyStore.rotate_key`."""
        return bool(await self._change(queries.ROTATE_KEY, rows.rotated_row(key), event, before=before, once=once))

    async def asked_once(self, once_id: bytes) -> Once | None:
        """Return what was asked for under this id, if that is remembered."""
        found = await self._look_up(queries.ASKED, {"id": once_id})
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
        found = await self._look_up(self.dialect.USER, {"name": name})
        return rows.user(found[0]) if found else None

    async def list_users(self, *, after: str | None, limit: int) -> Sequence[User]:
        """Return people by ascending name, those after the name `after`."""
        found = await self._list(self.dialect.LIST_USERS, {"after": after or "", "limit": limit})
        return [rows.user(row) for row in found]

    async def organization(self, name: str) -> Organization | None:
        """Return an organization."""
        found = await self._look_up(queries.ORGANIZATION, {"name": name})
        return rows.organization(found[0]) if found else None

    async def list_organizations(self, *, of: str | None, after: str | None, limit: int) -> Sequence[Organization]:
        """Return organizations by ascending name: all, or those that a person belongs to."""
        statement = queries.LIST_ORGANIZATIONS if of is None else queries.LIST_ORGANIZATIONS_OF_USER
        found = await self._list(statement, {"of": of, "after": after or "", "limit": limit})
        return [rows.organization(row) for row in found]

    async def person_by_token(self, digest: bytes) -> Person | None:
        """Return whose access token has this SHA-256, with their roles, in one consistent read."""
        found = await self._look_up(self.dialect.PERSON_BY_TOKEN, {"digest": digest})
        return rows.person(found[0]) if found else None

    async def put_access_token(self, user: str, token: AccessToken, *, event: AuditEvent) -> None:
        """Give a person an access token, in the place of the one before. Raises OwnerNotFound."""
        await self._run(partial(owning.put_token, user=user, token=token, event=event))

    async def drop_access_token(self, user: str, *, event: AuditEvent) -> bool:
        """Take a person's access token away; False if there is none."""
        return bool(await self._change(queries.DROP_TOKEN, {"user": user}, event))

    async def member(self, organization: str, user: str) -> Member | None:
        """Return a member."""
        found = await self._look_up(queries.MEMBER, {"organization": organization, "user": user})
        return rows.member(found[0]) if found else None

    async def list_members(self, organization: str, *, after: str | None, limit: int) -> Sequence[Member]:
        """Return members by ascending name, those after the name `after`."""
        values = {"organization": organization, "after": after or "", "limit": limit}
        return [rows.member(row) for row in await self._list(queries.LIST_MEMBERS, values)]

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
        found = await self._list(queries.list_events(query), asdict(query))
        return [rows.event(row) for row in found]

    # --- the ledger ---

    async def charge(self, charge_id: str) -> Charge | None:
        """Return the row of this id, of any kind."""
        found = await self._list(queries.CHARGE, {"id": charge_id})
        return rows.charge(found[0]) if found else None

    async def list_charges(self, query: ChargeQuery) -> Sequence[Charge]:
        """Return the charges and corrections that match, newest admission first; none if `after` is unknown."""
        found = await self._list(queries.list_charges(query), asdict(query))
        return [rows.charge(row) for row in found]

    async def list_unsettled(self, *, after: str | None, limit: int, settled_later: bool) -> Sequence[Charge]:
        """Return unsettled rows, newest admission first: the open ones or all; none if `after` is unknown."""
        statement = queries.list_unsettled(after=after, settled_later=settled_later)
        found = await self._list(statement, {"after": after, "limit": limit})
        return [rows.charge(row) for row in found]

    async def count_unsettled(self) -> int:
        """Return how many unsettled rows are open."""
        found = await self._list(queries.COUNT_UNSETTLED, {})
        return int(found[0][0])

    async def settled(self, decision_ids: Sequence[UUID]) -> set[UUID]:
        """Return those of the decisions that have a row of any kind."""
        settled: set[UUID] = set()
        for start in range(0, len(decision_ids), DECISIONS_AT_ONCE):
            asked = self._array(str(id_) for id_ in decision_ids[start : start + DECISIONS_AT_ONCE])
            settled.update(UUID(str(row[0])) for row in await self._list(self.dialect.SETTLED, {"decision_ids": asked}))
        return settled

    async def owner_totals(self, owner: str) -> Mapping[str, int]:
        """Return what an owner spent, by month, in nano-units."""
        return dict(await self._list(queries.OWNER_TOTALS, {"owner": owner}))

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return the sums of charges and corrections, one for each group, sorted as the groups are."""
        values = {"owner": query.owner, "since": query.since, "until": query.until, "limit": query.limit}
        found = await self._list(queries.usage(query), values)
        return [rows.usage(row) for row in found if row[-1] is not None]  # SQL sums nothing up to one row of NULLs

    async def note_prices(self, model_prices: Sequence[tuple[str, int, Prices]], at_us: int) -> None:
        """Keep which models have which prices from when, and the price versions, in one transaction."""

        async def note(transaction: Transaction) -> None:
            versions = sorted((rows.prices_row(prices) for *_, prices in model_prices), key=itemgetter(0))
            await transaction.repeat(self.dialect.INSERT_PRICES, versions)
            await transaction.repeat(
                self.dialect.NOTE_PRICES, (rows.noted_row(*noted, at_us) for noted in model_prices)
            )

        await self._run(note)

    async def price_history(self, model: str) -> Sequence[PriceRecord]:
        """Return all that was noted of a model's prices, by the instant that they apply from, then as it was noted."""
        found = await self._list(queries.PRICE_HISTORY, {"model": model})
        return [PriceRecord(*row) for row in found]

    async def prices(self, price_id: str) -> Prices | None:
        """Return the price version of this id."""
        found = await self._look_up(queries.PRICES, {"id": price_id})
        return rows.prices(found[0]) if found else None

    async def positions(self) -> Mapping[str, int]:
        """Return the offset of every journal file that is known, by the file's identity."""
        return dict(await self._list(queries.POSITIONS, {}))

    async def forget_positions(self, files: Sequence[str]) -> None:
        """Drop the positions of journal files that are gone."""
        await self._write(self.dialect.FORGET_POSITIONS, {"files": self._array(files)})

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

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreUnavailable("the store is closed")

    async def _write(self, statement: str, values: Mapping[str, Any]) -> Sequence[Any]:
        return await self._run(lambda transaction: transaction.fetch(statement, values))

    async def _change(
        self,
        statement: str,
        values: Mapping[str, Any],
        event: AuditEvent,
        *,
        before: Key | None = None,
        once: Once | None = None,
    ) -> Sequence[Any]:
        """Write, and tell of it in the same transaction. If nothing was there to change, nothing is told."""

        async def change(transaction: Transaction) -> Sequence[Any]:
            if before is not None:
                await _require_as_it_was(transaction, before)
            changed = await transaction.fetch(statement, values)
            if changed:
                await _remember(transaction, once)
                await owning.tell(transaction, [event])
            return changed

        return await self._run(change)

    @contextmanager
    def _name_taken(self, key: Key) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._is_name_taken(error):
                raise NameTaken(f'{key.owner} has another key named "{key.name}"') from error
            raise

    # --- what each database does in its own way ---

    @abstractmethod
    async def _look_up(self, statement: str, values: Values) -> Sequence[Any]:
        """Read what a request waits for. Never waits behind somebody's long list. Raises StoreUnavailable."""

    @abstractmethod
    async def _list(self, statement: str, values: Values) -> Sequence[Any]:
        """Read what may take its time. Raises StoreUnavailable."""

    @abstractmethod
    async def _run(self, work: Work[T]) -> T:
        """Run the work in a transaction, to its end even if the caller is cancelled. Raises StoreUnavailable."""

    @abstractmethod
    async def _close(self) -> None:
        """Finish what is running and close."""

    @abstractmethod
    def _array(self, values: Iterable[str]) -> Any:
        """Return what a statement takes for a list of texts."""

    @abstractmethod
    def _is_name_taken(self, error: Exception) -> bool:
        """Return whether the driver says that an owner has a key of this name already."""


async def _require_as_it_was(transaction: Transaction, before: Key) -> None:
    """Raise KeyChanged if a key is there and not as it was; it stays as it is until the transaction's end."""
    found = await transaction.fetch(transaction.dialect.KEY_TO_CHANGE, {"id": before.id})
    if found and rows.key(found[0]) != before:
        raise KeyChanged(before.id)


async def _remember(transaction: Transaction, once: Once | None) -> None:
    if once is not None:
        if not await transaction.fetch(queries.INSERT_ASKED, rows.asked_row(once)):
            raise AskedMeanwhile
        await transaction.fetch(queries.FORGET_MOST_ASKED, {"kept": MAX_ONCE})
