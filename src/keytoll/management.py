"""Management: what owners and operators do with keys, whichever way they come.

A change is in force when its method returns: the store has it, and no Check can see the old state any more.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol, TypeVar

from keytoll.core.access import check_models, check_networks
from keytoll.core.edit import Edit, effects
from keytoll.core.expiry import check_future
from keytoll.core.explain import Explanation, explain, price_from_us
from keytoll.core.holds import KeyHolds
from keytoll.core.ids import uuid7
from keytoll.core.keys import Key, check_name, check_owner, digest_of, mint_secret
from keytoll.core.ledger import Charge, correction_id
from keytoll.core.months import Calendar
from keytoll.core.quota import Quota, QuotaKind, Totals, left_nano, spent_nano
from keytoll.store.base import ChargeQuery, NameTaken, Once, Store, StoredKey

MAX_PAGE = 1000
_REMEMBERED_US = 24 * 3_600_000_000
T = TypeVar("T")


class KeyNotFound(Exception):
    """There is no key of this id; or not any more."""


class ChargeNotFound(Exception):
    """There is no row of this id in the ledger."""


class RepeatDiffers(Exception):
    """Something else was asked for under the same id before."""


class RepeatOfDeleted(Exception):
    """The same was asked for under the same id before, and its key was deleted since."""


class Unchanged(Enum):
    """Says that an edit leaves a field as it is, where None has a meaning of its own."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class Access:
    """What a key may be used for: None means all models, or everywhere."""

    disabled: bool = False
    allowed_models: Sequence[str] | None = None
    allowed_networks: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """That a change is asked for under an id of the caller's, for 24 hours: `what` is all that is asked for."""

    id: str
    what: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a key stands at an instant: what counts as used, what is left of its limit, and when a new month begins.

    `left_nano` is None without a limit, `resets_at_us` unless the quota is monthly, `old_valid_until_us` unless the
    secret before the last rotation still works.
    """

    used_nano: int
    left_nano: int | None
    resets_at_us: int | None
    old_valid_until_us: int | None


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What an edit changes. An expiry of None means never; for what is allowed see `Access`."""

    name: str | Unchanged = UNCHANGED
    quota: Quota | Unchanged = UNCHANGED
    expires_at_us: int | Unchanged | None = UNCHANGED
    disabled: bool | Unchanged = UNCHANGED
    allowed_models: Sequence[str] | Unchanged | None = UNCHANGED
    allowed_networks: Sequence[str] | Unchanged | None = UNCHANGED


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
        self,
        *,
        owner: str,
        name: str,
        quota: Quota,
        expires_at_us: int | None,
        access: Access = Access(),
        asked: Asked | None = None,
    ) -> tuple[StoredKey, str | None]:
        """Make a key, and return it with its secret, which is nowhere kept; or, for a repeat, the key without it.

        Raises NameTaken, RepeatDiffers and RepeatOfDeleted.
        """

        now_us, secret = self._clock(), mint_secret(self._random(32))
        key_id = f"key_{uuid7(now_us, self._random(10)).hex}"

        async def create(once: Once | None, now_us: int, key_id: str) -> tuple[StoredKey, str]:
            key = Key(
                id=key_id,
                owner=check_owner(owner),
                name=check_name(name),
                digest=digest_of(secret),
                last4=secret[-4:],
                quota=quota,
                expires_at_us=_checked_expiry(expires_at_us, now_us),
                created_at_us=now_us,
                disabled=access.disabled,
                allowed_models=check_models(access.allowed_models),
                allowed_networks=check_networks(access.allowed_networks),
            )
            await self._store.create_key(key, once)
            return StoredKey(key, Totals(), revision=0), secret

        if asked is None:
            return await create(None, now_us, key_id)
        return await _to_the_end(self._once(create, asked, of=("create", owner), key_id=key_id))

    async def rotate_key(
        self,
        key_id: str,
        *,
        old_valid_until_us: int | None = None,
        owner: str | None = None,
        asked: Asked | None = None,
    ) -> tuple[StoredKey, str | None]:
        """Give a key another secret, and return it as `create_key` does.

        The old secret works on until an instant, or not at all; one that an earlier rotation left working ends now.
        Raises KeyNotFound, RepeatDiffers and RepeatOfDeleted.
        """

        async def rotate(once: Once | None, now_us: int, key_id: str) -> tuple[StoredKey, str]:
            stored = await self.get_key(key_id, owner=owner)
            secret, before = mint_secret(self._random(32)), stored.key
            key = replace(
                before,
                digest=digest_of(secret),
                last4=secret[-4:],
                old_digest=None if old_valid_until_us is None else before.digest,
                old_valid_until_us=_checked_old(old_valid_until_us, now_us),
            )
            await self._change((*before.digests, key.digest), key_id, self._store.rotate_key(key, once))
            return replace(stored, key=key), secret

        return await _to_the_end(self._once(rotate, asked, of=("rotate", owner or "", key_id), key_id=key_id))

    async def list_keys(self, *, owner: str | None, after: str | None, limit: int) -> Sequence[StoredKey]:
        """Return keys by ascending id, of one owner or of all, those after the id `after`."""
        if owner is not None:
            check_owner(owner)
        return await self._store.list_keys(owner=owner, after=after, limit=limit)

    async def get_key(self, key_id: str, *, owner: str | None = None) -> StoredKey:
        """Return a key, here as below one of this owner if one is named. Raises KeyNotFound, also for another's."""
        stored = await self._store.key_by_id(key_id)
        if stored is None or owner not in (None, stored.key.owner):
            raise KeyNotFound(key_id)
        return stored

    async def edit_key(self, key_id: str, changes: KeyChanges, *, owner: str | None = None) -> StoredKey:
        """Change a key, and return it. Raises KeyNotFound and NameTaken."""
        return await _to_the_end(self._edit(key_id, changes, owner))

    async def preview_edit(
        self, key_id: str, changes: KeyChanges, *, currency: str, owner: str | None = None
    ) -> EditPreview:
        """Return what an edit would do, and change nothing; amounts are told in `currency`. Raises what the edit would."""
        stored, now_us = await self.get_key(key_id, owner=owner), self._clock()
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

    async def delete_key(self, key_id: str, *, owner: str | None = None) -> None:
        """Delete a key, and so all its secrets. Raises KeyNotFound."""
        await _to_the_end(self._delete(key_id, owner))

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

    def standing(self, stored: StoredKey) -> Standing:
        """Return how a key stands now. This month's spending counts if its quota is monthly, else all of it."""
        key, now_us = stored.key, self._clock()
        month, valid_until_us = self._calendar.month(now_us), key.old_valid_until_us
        return Standing(
            used_nano=spent_nano(key.quota, stored.totals, month.name),
            left_nano=left_nano(key.quota, stored.totals, month.name),
            resets_at_us=month.end_us if key.quota.kind is QuotaKind.MONTHLY else None,
            old_valid_until_us=None if valid_until_us is None or valid_until_us <= now_us else valid_until_us,
        )

    async def _once(
        self, change: "_Change", asked: Asked | None, *, of: tuple[str, ...], key_id: str
    ) -> tuple[StoredKey, str | None]:
        """Make a change that gives a secret, unless it was asked for before; the key of a repeat comes without one."""
        async with self._editing:
            now_us = self._clock()
            if asked is None:
                return await change(None, now_us, key_id)
            once = Once(_hash(*of, asked.id), _hash(asked.what), key_id, now_us)
            earlier = await self._store.asked_once(once.id)
            if earlier is not None and earlier.at_us >= now_us - _REMEMBERED_US:
                return await self._repeated(earlier, once), None
            await self._store.forget_asked(before_us=now_us - _REMEMBERED_US)
            return await change(once, now_us, key_id)

    async def _repeated(self, earlier: Once, once: Once) -> StoredKey:
        if earlier.fingerprint != once.fingerprint:
            raise RepeatDiffers
        stored = await self._store.key_by_id(earlier.key_id)
        if stored is None:
            raise RepeatOfDeleted
        return stored

    async def _correction(self, unsettled: Charge) -> str | None:
        correction = await self._store.charge(correction_id(unsettled.entry))
        return None if correction is None else correction.id

    async def _check_name_free(self, owner: str, name: str) -> None:
        after: str | None = None
        while page := await self._store.list_keys(owner=owner, after=after, limit=MAX_PAGE):
            if any(stored.key.name == name for stored in page):
                raise NameTaken
            after = page[-1].key.id

    async def _edit(self, key_id: str, changes: KeyChanges, owner: str | None) -> StoredKey:
        async with self._editing:
            stored = await self.get_key(key_id, owner=owner)
            key = _changed(stored.key, changes, now_us=self._clock())
            await self._change(key.digests, key_id, self._store.update_key(key))
        return replace(stored, key=key)

    async def _delete(self, key_id: str, owner: str | None) -> None:
        async with self._editing:
            digests = (await self.get_key(key_id, owner=owner)).key.digests
            await self._change(digests, key_id, self._store.delete_key(key_id, deleted_at_us=self._clock()))

    async def _change(self, digests: Iterable[bytes], key_id: str, change: Awaitable[bool]) -> None:
        try:
            found = await change
        finally:
            # Also after a failure: the store may have kept the change and only its answer may have been lost.
            for digest in digests:
                self._cache.forget(digest)
        if not found:
            raise KeyNotFound(key_id)


_Change = Callable[[Once | None, int, str], Awaitable[tuple[StoredKey, str]]]


def _hash(*texts: str) -> bytes:
    return hashlib.sha256(json.dumps(texts).encode("ascii")).digest()


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
    if not isinstance(changes.disabled, Unchanged):
        key = replace(key, disabled=changes.disabled)
    if not isinstance(changes.allowed_models, Unchanged):
        key = replace(key, allowed_models=check_models(changes.allowed_models))
    if not isinstance(changes.allowed_networks, Unchanged):
        key = replace(key, allowed_networks=check_networks(changes.allowed_networks))
    return key


def _checked_old(valid_until_us: int | None, now_us: int) -> int | None:
    return None if valid_until_us is None else check_future(valid_until_us, now_us=now_us, field="old_valid_until")


def _checked_expiry(expires_at_us: int | None, now_us: int) -> int | None:
    return None if expires_at_us is None else check_future(expires_at_us, now_us=now_us, field="expires_at")
