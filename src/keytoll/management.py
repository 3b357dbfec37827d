"""Management: what owners and operators do with keys, whichever way they come.

A change is in force when its method returns: the store has it, and no Check can see the old state any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol, TypeVar

from keytoll.core.edit import Edit, effects
from keytoll.core.expiry import check_future
from keytoll.core.explain import Explanation, explain, price_from_us
from keytoll.core.holds import KeyHolds
from keytoll.core.ids import uuid7
from keytoll.core.keys import Key, check_name, check_owner, digest_of, mint_secret
from keytoll.core.ledger import Charge, correction_id
from keytoll.core.months import Calendar
from keytoll.core.quota import Quota, Totals, spent_nano
from keytoll.store.base import ChargeQuery, NameTaken, Store, StoredKey

MAX_PAGE = 1000
T = TypeVar("T")


class KeyNotFound(Exception):
    """There is no key of this id; or not any more."""


class ChargeNotFound(Exception):
    """There is no row of this id in the ledger."""


class Unchanged(Enum):
    """Says that an edit leaves a field as it is, where None has a meaning of its own."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What an edit changes. An expiry of None means never."""

    name: str | Unchanged = UNCHANGED
    quota: Quota | Unchanged = UNCHANGED
    expires_at_us: int | Unchanged | None = UNCHANGED


@dataclass(frozen=True, slots=True)
class EditPreview:
    """What an edit would do if it were made at the instant `from_us`: the key before and after it, and its effects."""

    before: StoredKey
    after: StoredKey
    effects: Sequence[str]
    from_us: int


@dataclass(frozen=True, slots=True)
class ExplainedCharge:
    """A row of the ledger, how its amount comes about, and since when its price applied (us; None: from ever on)."""

    charge: Charge
    explanation: Explanation
    price_from_us: int | None


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A decision whose log entry never came, and the id of the correction if it came after all."""

    charge: Charge
    corrected_by: str | None


class Cache(Protocol):
    """What management needs of the key cache."""

    def forget(self, digest: bytes) -> None:
        """Drop what is known of a key. Once this returns, no Check sees its old state."""


class Management:
    """Creates, lists, edits and deletes keys, and looks into the ledger.

    `clock` gives microseconds since the UNIX epoch, `random` as many random bytes as asked for, `held` what the requests
    under way of a key hold. Every method may raise StoreUnavailable; those that take values raise InvalidValue, naming
    the field as the REST API does.
    """

    def __init__(
        self,
        *,
        store: Store,
        cache: Cache,
        calendar: Calendar,
        clock: Callable[[], int],
        random: Callable[[int], bytes],
        held: Callable[[str], KeyHolds] = lambda _: KeyHolds(),
    ) -> None:
        self._store = store
        self._cache = cache
        self._calendar = calendar
        self._clock = clock
        self._random = random
        self._held = held
        self._editing = asyncio.Lock()  # an edit reads, then writes the whole key: two at once would lose one

    async def create_key(
        self, *, owner: str, name: str, quota: Quota, expires_at_us: int | None
    ) -> tuple[StoredKey, str]:
        """Make a key, and return it with its secret, which is nowhere kept. Raises NameTaken."""
        now_us, secret = self._clock(), mint_secret(self._random(32))
        key = Key(
            id=f"key_{uuid7(now_us, self._random(10)).hex}",
            owner=check_owner(owner),
            name=check_name(name),
            digest=digest_of(secret),
            last4=secret[-4:],
            quota=quota,
            expires_at_us=_checked_expiry(expires_at_us, now_us),
            created_at_us=now_us,
        )
        await self._store.create_key(key)
        return StoredKey(key, Totals(), revision=0), secret

    async def list_keys(self, *, owner: str | None, after: str | None, limit: int) -> Sequence[StoredKey]:
        """Return keys by ascending id, of one owner or of all, those after the id `after`."""
        if owner is not None:
            check_owner(owner)
        return await self._store.list_keys(owner=owner, after=after, limit=limit)

    async def get_key(self, key_id: str) -> StoredKey:
        """Return a key. Raises KeyNotFound."""
        stored = await self._store.key_by_id(key_id)
        if stored is None:
            raise KeyNotFound(key_id)
        return stored

    async def edit_key(self, key_id: str, changes: KeyChanges) -> StoredKey:
        """Change a key, and return it. Raises KeyNotFound and NameTaken."""
        return await _to_the_end(self._edit(key_id, changes))

    async def preview_edit(self, key_id: str, changes: KeyChanges, *, currency: str) -> EditPreview:
        """Return what an edit would do, and change nothing; amounts are told in `currency`. Raises what the edit would."""
        stored, now_us = await self.get_key(key_id), self._clock()
        key = _changed(stored.key, changes, now_us=now_us)
        if key.name != stored.key.name:
            await self._check_name_free(key.owner, key.name)
        edit = Edit(
            before=stored.key,
            after=key,
            totals=stored.totals,
            holds=self._held(key_id),
            now_us=now_us,
            calendar=self._calendar,
            currency=currency,
        )
        return EditPreview(before=stored, after=replace(stored, key=key), effects=effects(edit), from_us=now_us)

    async def delete_key(self, key_id: str) -> None:
        """Delete a key. Raises KeyNotFound."""
        await _to_the_end(self._delete(key_id))

    async def list_charges(self, query: ChargeQuery) -> Sequence[Charge]:
        """Return the charges that match, newest admission first."""
        if query.owner is not None:
            check_owner(query.owner)
        return await self._store.list_charges(query)

    async def explain_charge(self, charge_id: str) -> ExplainedCharge:
        """Return a row of the ledger, of any kind, with its sum. Raises ChargeNotFound."""
        charge = await self._store.charge(charge_id)
        if charge is None:
            raise ChargeNotFound(charge_id)
        history = await self._store.price_history(charge.entry.model)
        return ExplainedCharge(charge, explain(charge), price_from_us(history, charge))

    async def list_unsettled(self, *, after: str | None, limit: int, settled_later: bool) -> Sequence[Unsettled]:
        """Return the decisions whose log entry never came, newest admission first, those after the id `after`.

        With `settled_later` also those whose entry came after all.
        """
        found = await self._store.list_unsettled(after=after, limit=limit, settled_later=settled_later)
        return [Unsettled(charge, await self._correction(charge) if settled_later else None) for charge in found]

    def used_nano(self, stored: StoredKey) -> int:
        """Return what counts towards the key's quota now: this month's spending if it is monthly, else all of it."""
        return spent_nano(stored.key.quota, stored.totals, self._calendar.month(self._clock()).name)

    async def _correction(self, unsettled: Charge) -> str | None:
        correction = await self._store.charge(correction_id(unsettled.entry))
        return None if correction is None else correction.id

    async def _check_name_free(self, owner: str, name: str) -> None:
        after: str | None = None
        while page := await self._store.list_keys(owner=owner, after=after, limit=MAX_PAGE):
            if any(stored.key.name == name for stored in page):
                raise NameTaken
            after = page[-1].key.id

    async def _edit(self, key_id: str, changes: KeyChanges) -> StoredKey:
        async with self._editing:
            stored = await self.get_key(key_id)
            key = _changed(stored.key, changes, now_us=self._clock())
            await self._change(key.digest, key_id, self._store.update_key(key))
        return replace(stored, key=key)

    async def _delete(self, key_id: str) -> None:
        async with self._editing:
            digest = (await self.get_key(key_id)).key.digest
            await self._change(digest, key_id, self._store.delete_key(key_id, deleted_at_us=self._clock()))

    async def _change(self, digest: bytes, key_id: str, change: Awaitable[bool]) -> None:
        try:
            found = await change
        finally:
            # Also after a failure: the store may have kept the change and only its answer may have been lost.
            self._cache.forget(digest)
        if not found:
            raise KeyNotFound(key_id)


async def _to_the_end(work: Awaitable[T]) -> T:
    """Wait for the work; it goes on if the caller is cancelled, so that the cache never keeps what the store lost."""
    return await asyncio.shield(asyncio.ensure_future(work))


def _changed(key: Key, changes: KeyChanges, *, now_us: int) -> Key:
    if not isinstance(changes.name, Unchanged):
        key = replace(key, name=check_name(changes.name))
    if not isinstance(changes.quota, Unchanged):
        key = replace(key, quota=changes.quota)
    if not isinstance(changes.expires_at_us, Unchanged):
        key = replace(key, expires_at_us=_checked_expiry(changes.expires_at_us, now_us))
    return key


def _checked_expiry(expires_at_us: int | None, now_us: int) -> int | None:
    return None if expires_at_us is None else check_future(expires_at_us, now_us=now_us, field="expires_at")
