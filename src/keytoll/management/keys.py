"""Keys: what their owners and operators do with them."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Final

from keytoll.core.access import check_models, check_networks
from keytoll.core.audit import Action, AuditEvent, key_picture
from keytoll.core.edit import Edit, effects
from keytoll.core.expiry import check_future
from keytoll.core.holds import KeyHolds
from keytoll.core.keys import Key, check_name
from keytoll.core.months import Calendar
from keytoll.core.owners import USERS, check_owner, split_owner
from keytoll.core.permissions import Actor, Hidden, Operator, Verb, check, check_operator
from keytoll.core.quota import Quota, QuotaKind, Totals, left_nano, spent_nano
from keytoll.core.secrets import KEY_PREFIX, digest_of, mint
from keytoll.management.changes import Changes, again_if_changed, to_the_end
from keytoll.management.pages import Page, check_limit, page_of
from keytoll.store.base import KeyQuery, NameTaken, Once, Store, StoredKey, key_cursor

_REMEMBERED_US = 24 * 3_600_000_000


class KeyNotFound(Exception):
    """There is no key of this id; or not any more, or none that may be seen."""


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


class Keys:
    """Creates, lists, edits, rotates and deletes keys.

    Where an owner is named beside a key's id, another owner's key is not found.
    """

    def __init__(self, store: Store, changes: Changes, *, calendar: Calendar, held: Callable[[str], KeyHolds]) -> None:
        self._store = store
        self._changes = changes
        self._calendar = calendar
        self._held = held

    async def create(
        self,
        by: Actor,
        *,
        owner: str,
        name: str,
        quota: Quota,
        expires_at_us: int | None,
        access: Access = Access(),
        asked: Asked | None = None,
    ) -> tuple[StoredKey, str | None]:
        """Make a key, and return it with its secret, which is nowhere kept; or, for a repeat, the key without it.

        An owner that is unknown is signed up by an operator's first key for it. Raises NameTaken, OwnerNotFound,
        OwnerDeleted, RepeatDiffers and RepeatOfDeleted.
        """
        check_owner(owner)
        now_us, secret = self._changes.clock(), mint(KEY_PREFIX, self._changes.random(32))
        key_id = self._changes.new_id("key", now_us)

        async def create(by: Actor, once: Once | None, now_us: int) -> tuple[StoredKey, str]:
            key = Key(
                id=key_id,
                owner=owner,
                name=check_name(name),
                digest=digest_of(secret),
                last4=secret[-4:],
                quota=quota,
                expires_at_us=_checked_expiry(expires_at_us, now_us),
                created_at_us=now_us,
                created_by=by.name,
                disabled=access.disabled,
                allowed_models=check_models(access.allowed_models),
                allowed_networks=check_networks(access.allowed_networks),
            )
            event = key_event(self._changes, by, Action.KEY_CREATE, now_us, key, after=key)
            await self._store.create_key(key, event=event, sign_up=self._sign_up(by, key), once=once)
            return StoredKey(key, Totals(), revision=0), secret

        once = partial(self._once, by, owner, create, asked, of=("create", owner), key_id=key_id)
        return await to_the_end(again_if_changed(once))

    async def rotate(
        self,
        by: Actor,
        key_id: str,
        *,
        old_valid_until_us: int | None = None,
        owner: str | None = None,
        asked: Asked | None = None,
    ) -> tuple[StoredKey, str | None]:
        """Give a key another secret, and return it as `create` does.

        The old secret works on until an instant, or not at all; one that an earlier rotation left working ends now.
        Raises KeyNotFound, RepeatDiffers, RepeatOfDeleted and NotEverywhere.
        """

        async def rotate(by: Actor, once: Once | None, now_us: int) -> tuple[StoredKey, str]:
            stored = await self._find(by, Verb.MANAGE_KEYS, key_id, owner)
            secret, before = mint(KEY_PREFIX, self._changes.random(32)), stored.key
            key = replace(
                before,
                digest=digest_of(secret),
                last4=secret[-4:],
                old_digest=None if old_valid_until_us is None else before.digest,
                old_valid_until_us=_checked_old(old_valid_until_us, now_us),
            )
            event = key_event(self._changes, by, Action.KEY_ROTATE, now_us, key, before=before, after=key)
            rotating = self._store.rotate_key(key, event=event, before=before, once=once)
            await self._make(key_id, (*before.digests, key.digest), rotating)
            return replace(stored, key=key), secret

        of = ("rotate", owner or "", key_id)
        once = partial(self._once, by, owner, rotate, asked, of=of, key_id=key_id)
        return await self._changes.everywhere(again_if_changed(once))

    async def list(self, by: Actor, query: KeyQuery) -> Page[StoredKey]:
        """Return the keys that match; without an owner everybody's, for operators."""
        if query.owner is None:
            check_operator(by.who)
        else:
            check(by.who, Verb.LOOK, check_owner(query.owner))
        now_us, one_more = self._changes.clock(), check_limit(query.limit) + 1
        month = self._calendar.month(now_us).name
        found = await self._store.list_keys(replace(query, limit=one_more), now_us=now_us, month=month)
        return page_of(found, query.limit, lambda stored: key_cursor(stored, query.sort))

    async def get(self, by: Actor, key_id: str, *, owner: str | None = None) -> StoredKey:
        """Return a key. Raises KeyNotFound."""
        return await self._find(by, Verb.LOOK, key_id, owner)

    async def edit(self, by: Actor, key_id: str, changes: KeyChanges, *, owner: str | None = None) -> StoredKey:
        """Change a key, and return it. Raises KeyNotFound, NameTaken and NotEverywhere."""
        return await self._changes.everywhere(again_if_changed(partial(self._edit, by, key_id, changes, owner)))

    async def preview_edit(
        self, by: Actor, key_id: str, changes: KeyChanges, *, currency: str, owner: str | None = None
    ) -> EditPreview:
        """Return what an edit would do, and change nothing; amounts are told in `currency`. Raises what the edit would."""
        stored, now_us = await self._find(by, Verb.MANAGE_KEYS, key_id, owner), self._changes.clock()
        key = _changed(stored.key, changes, now_us=now_us)
        if await self._store.key_named(key.owner, key.name) not in (None, key_id):
            raise NameTaken
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

    async def delete(self, by: Actor, key_id: str, *, owner: str | None = None) -> None:
        """Delete a key, and so all its secrets. Raises KeyNotFound and NotEverywhere."""
        await self._changes.everywhere(self._delete(by, key_id, owner))

    def standing(self, stored: StoredKey) -> Standing:
        """Return how a key stands now. This month's spending counts if its quota is monthly, else all of it."""
        key, now_us = stored.key, self._changes.clock()
        month, valid_until_us = self._calendar.month(now_us), key.old_valid_until_us
        return Standing(
            used_nano=spent_nano(key.quota, stored.totals, month.name),
            left_nano=left_nano(key.quota, stored.totals, month.name),
            resets_at_us=month.end_us if key.quota.kind is QuotaKind.MONTHLY else None,
            old_valid_until_us=None if valid_until_us is None or valid_until_us <= now_us else valid_until_us,
        )

    async def _find(self, by: Actor, verb: Verb, key_id: str, owner: str | None) -> StoredKey:
        """Return a key with which they may do this. Raises KeyNotFound, also for hidden owners' keys."""
        if owner is not None:
            check(by.who, verb, owner)
        stored = await self._store.key_by_id(key_id)
        if stored is None or owner not in (None, stored.key.owner):
            raise KeyNotFound(key_id)
        return _allowed(by, verb, stored)

    async def _once(
        self, by: Actor, owner: str | None, change: "_Change", asked: Asked | None, *, of: tuple[str, ...], key_id: str
    ) -> tuple[StoredKey, str | None]:
        """Make a change that gives a secret, unless it was asked for before; the key of a repeat comes without one."""
        async with self._changes.turn(by) as by:
            if owner is not None:
                check(by.who, Verb.MANAGE_KEYS, owner)
            now_us = self._changes.clock()
            if asked is None:
                return await change(by, None, now_us)
            once = Once(_hash(by.name, *of, asked.id), _hash(asked.what), key_id, now_us)
            earlier = await self._store.asked_once(once.id)
            if earlier is not None and earlier.at_us >= now_us - _REMEMBERED_US:
                return _allowed(by, Verb.MANAGE_KEYS, await self._repeated(earlier, once)), None
            await self._store.forget_asked(before_us=now_us - _REMEMBERED_US)
            return await change(by, once, now_us)

    async def _repeated(self, earlier: Once, once: Once) -> StoredKey:
        if earlier.fingerprint != once.fingerprint:
            raise RepeatDiffers
        stored = await self._store.key_by_id(earlier.key_id)
        if stored is None:
            raise RepeatOfDeleted
        return stored

    async def _edit(self, by: Actor, key_id: str, changes: KeyChanges, owner: str | None) -> StoredKey:
        async with self._changes.turn(by) as by:
            stored, now_us = await self._find(by, Verb.MANAGE_KEYS, key_id, owner), self._changes.clock()
            key = _changed(stored.key, changes, now_us=now_us)
            if key != stored.key:
                event = key_event(self._changes, by, Action.KEY_EDIT, now_us, key, before=stored.key, after=key)
                await self._make(key_id, key.digests, self._store.update_key(key, event=event, before=stored.key))
        return replace(stored, key=key)

    async def _delete(self, by: Actor, key_id: str, owner: str | None) -> None:
        async with self._changes.turn(by) as by:
            key, now_us = (await self._find(by, Verb.MANAGE_KEYS, key_id, owner)).key, self._changes.clock()
            event = key_event(self._changes, by, Action.KEY_DELETE, now_us, key, before=key)
            await self._make(key_id, key.digests, self._store.delete_key(key_id, deleted_at_us=now_us, event=event))

    async def _make(self, key_id: str, digests: Sequence[bytes], change: Awaitable[bool]) -> None:
        if not await self._changes.forgetting(digests, change):
            raise KeyNotFound(key_id)

    def _sign_up(self, by: Actor, key: Key) -> AuditEvent | None:
        """Return the event that tells of a new owner, if it is an operator who makes its first key."""
        if not isinstance(by.who, Operator):
            return None
        kind, name = split_owner(key.owner)
        action = Action.USER_CREATE if kind == USERS else Action.ORGANIZATION_CREATE
        after = {"name": name}
        return self._changes.event(by, action, at_us=key.created_at_us, owner=key.owner, subject=name, after=after)


def _allowed(by: Actor, verb: Verb, stored: StoredKey) -> StoredKey:
    """Return the key if they may do this with it. Raises KeyNotFound for hidden owners' keys."""
    try:
        check(by.who, verb, stored.key.owner)
    except Hidden:
        raise KeyNotFound(stored.key.id) from None
    return stored


def key_event(
    changes: Changes,
    by: Actor,
    action: Action,
    at_us: int,
    key: Key,
    *,
    before: Key | None = None,
    after: Key | None = None,
) -> AuditEvent:
    """Return the event that tells of a change to a key."""
    return changes.event(
        by,
        action,
        at_us=at_us,
        owner=key.owner,
        subject=key.id,
        subject_name=key.name,
        before=None if before is None else key_picture(before),
        after=None if after is None else key_picture(after),
    )


_Change = Callable[[Actor, Once | None, int], Awaitable[tuple[StoredKey, str]]]


def _hash(*texts: str) -> bytes:
    return hashlib.sha256(json.dumps(texts).encode("ascii")).digest()


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
