"""What all changes have in common: they are told of, made one after another, and in force when they return."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from keytoll.core.audit import Action, AuditEvent, Picture
from keytoll.core.ids import uuid7
from keytoll.core.owners import User
from keytoll.core.permissions import Actor, Operator, Person, SignedOut
from keytoll.store.base import AskedMeanwhile, KeyChanged, OwnerStore
from keytoll.store.replicas import Behind

T = TypeVar("T")

Everywhere = Callable[[], Awaitable[Sequence[Behind]]]
"""Waits until what was changed is in force at all replicas; returns those where it may not be after the deadline."""

_TRIES = 8


@dataclass(frozen=True, slots=True)
class NotYet:
    """A replica that may still admit by the state before a change, until an instant at most."""

    replica: str
    until_us: int


class NotEverywhere(Exception):
    """A change was made, and is in force here, but within the deadline not all replicas have said that it is at them.

    `made` is what the method would have returned.
    """

    def __init__(self, made: Any, not_yet: Sequence[NotYet]) -> None:
        super().__init__(", ".join(each.replica for each in not_yet))
        self.made = made
        self.not_yet = not_yet


class Cache(Protocol):
    """What management needs of the key cache."""

    def forget(self, digest: bytes) -> None:
        """Drop what is known of a key. Once this returns, no Check sees its old state."""


class Changes:
    """Gives changes their turn, time, randomness and events, lets the key cache forget what they change, and waits
    until they are in force everywhere."""

    def __init__(
        self,
        store: OwnerStore,
        cache: Cache,
        *,
        clock: Callable[[], int],
        random: Callable[[int], bytes],
        everywhere: Everywhere | None = None,
    ) -> None:
        self.clock = clock
        self.random = random
        self._store = store
        self._cache = cache
        self._everywhere = everywhere
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, by: Actor) -> AsyncIterator[Actor]:
        """Wait for the turn to make a change, and give who asks as they are by then. Raises SignedOut.

        Changes are made one after another: each reads what it changes, so that two at once might lose one, or tell of
        what wasn't there. And the one that was waited for may have taken a role away, or the access token.
        """
        async with self._lock:
            yield await self._by_now(by)

    async def _by_now(self, by: Actor) -> Actor:
        if isinstance(by.who, Operator):
            return by
        user = await self._store.user(by.who.name)
        if user is None or not _is_in_force(by.token, user):
            raise SignedOut
        return replace(by, who=Person(user.name, user.roles))

    def new_id(self, prefix: str, at_us: int) -> str:
        """Return a new id, which sorts by its time."""
        return f"{prefix}_{uuid7(at_us, self.random(10)).hex}"

    def event(
        self,
        by: Actor,
        action: Action,
        *,
        at_us: int,
        owner: str,
        subject: str,
        subject_name: str | None = None,
        before: Picture | None = None,
        after: Picture | None = None,
    ) -> AuditEvent:
        """Return the event that tells of a change; a subject without a name of its own goes by `subject`."""
        return AuditEvent(
            id=self.new_id("evt", at_us),
            at_us=at_us,
            actor=by.name,
            action=action,
            owner=owner,
            subject=subject,
            subject_name=subject if subject_name is None else subject_name,
            source=by.source,
            before=before,
            after=after,
        )

    async def everywhere(self, change: Awaitable[T]) -> T:
        """Make a change to its end, and return once it is in force at all replicas. Raises NotEverywhere.

        A replica whose lease has run out admits nothing, so it isn't waited for.
        """
        made = await to_the_end(change)
        behind = () if self._everywhere is None else await self._everywhere()
        if behind:
            now_us = self.clock()
            raise NotEverywhere(
                made, [NotYet(each.replica, _whole_second_after(now_us, each.for_s)) for each in behind]
            )
        return made

    async def forgetting(self, digests: Iterable[bytes], change: Awaitable[T]) -> T:
        """Make a change, and let the cache forget the keys that these digests lead to, also after a failure: the store
        may have kept the change, and only its answer may have been lost."""
        try:
            return await change
        finally:
            self.forget(digests)

    def forget(self, digests: Iterable[bytes]) -> None:
        """Let the cache forget the keys that these digests lead to."""
        for digest in digests:
            self._cache.forget(digest)


def _whole_second_after(now_us: int, for_s: float) -> int:
    return -(-(now_us + int(for_s * 1_000_000)) // 1_000_000) * 1_000_000


def _is_in_force(token: bytes | None, user: User) -> bool:
    return token is None or (user.access_token is not None and user.access_token.digest == token)


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for the work; it goes on if the caller is cancelled, so that the cache never keeps what the store lost."""
    return await asyncio.shield(asyncio.ensure_future(work))


async def again_if_changed(change: Callable[[], Awaitable[T]]) -> T:
    """Make a change, anew if another replica got ahead with one of the same key. Raises KeyChanged if that goes on."""
    for _ in range(_TRIES - 1):
        with suppress(KeyChanged, AskedMeanwhile):
            return await change()
    return await change()
