"""What all changes have in common: they are told of, made one after another, and in force when they return."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from keytoll.core.audit import Action, AuditEvent, Picture
from keytoll.core.ids import uuid7
from keytoll.core.permissions import Actor

T = TypeVar("T")


class Cache(Protocol):
    """What management needs of the key cache."""

    def forget(self, digest: bytes) -> None:
        """Drop what is known of a key. Once this returns, no Check sees its old state."""


class Changes:
    """Gives changes their time, randomness and events, and lets the key cache forget what they change.

    Changes are made under its `lock`: each reads what it changes, so that two at once might lose one, or tell of what
    wasn't there.
    """

    def __init__(self, cache: Cache, *, clock: Callable[[], int], random: Callable[[int], bytes]) -> None:
        self.clock = clock
        self.random = random
        self.lock = asyncio.Lock()
        self._cache = cache

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


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for the work; it goes on if the caller is cancelled, so that the cache never keeps what the store lost."""
    return await asyncio.shield(asyncio.ensure_future(work))
