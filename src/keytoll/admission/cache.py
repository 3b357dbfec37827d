"""The key cache: known and unknown keys by the SHA-256 of their secret.

An entry holds a key and its totals, exact without any time limit: every change comes by direct call, edits and deletes
through `forget`, spending through `apply`. A key that was rotated may have an entry for each of its two secrets. Known
and unknown keys have each their own bound, so that a flood of guesses never pushes out a real key, and loads in flight
are bounded, so that it never queues up on the store.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar

from keytoll.core.quota import Totals
from keytoll.store.base import KeyStore, Posted, StoredKey, StoreUnavailable


class Miss(Enum):
    """Says that the cache can't tell: `load` must ask the store."""

    MISS = "miss"


MISS = Miss.MISS
V = TypeVar("V")


class TooManyLoads(StoreUnavailable):
    """So many keys are being looked up that another must wait its turn: an outage, not a denial."""


@dataclass(slots=True)
class _Load:
    """A key on its way from the store, and what happened to it meanwhile."""

    stale: bool = False
    posted: list[Posted] = field(default_factory=list)


class KeyCache:
    """Keys by digest, least recently used ones dropped first. Not thread-safe: it lives on one event loop."""

    def __init__(self, store: KeyStore, *, capacity: int = 100_000, loads: int = 256) -> None:
        self._store = store
        self._capacity = capacity
        self._max_loads = loads
        self._known: OrderedDict[bytes, StoredKey] = OrderedDict()
        self._unknown: OrderedDict[bytes, None] = OrderedDict()
        self._digests: dict[str, set[bytes]] = {}
        self._loads: dict[bytes, _Load] = {}
        self._tasks: dict[bytes, asyncio.Task[StoredKey | None]] = {}

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    def find(self, digest: bytes) -> StoredKey | Miss | None:
        """Return the key, None if there is certainly none, or MISS."""
        stored = self._known.get(digest)
        if stored is not None:
            self._known.move_to_end(digest)
            return stored
        return None if digest in self._unknown else MISS

    def known(self, key_id: str) -> StoredKey | None:
        """Return the key of this id if it is in memory."""
        return next((self._known[digest] for digest in self._digests.get(key_id, ())), None)

    def load(self, digest: bytes) -> Awaitable[StoredKey | None]:
        """Ask the store for a key, once for all that ask at the same time. Raises StoreUnavailable.

        The load goes on when a caller gives up: the next one finds its result.
        """
        task = self._tasks.get(digest)
        if task is None:
            if len(self._tasks) >= self._max_loads:
                raise TooManyLoads("too many keys are being looked up")
            self._loads[digest] = _Load()
            task = self._tasks[digest] = asyncio.create_task(self._load(digest, self._loads[digest]))
            task.add_done_callback(_retrieve)
        return asyncio.shield(task)

    def forget(self, digest: bytes) -> None:
        """Drop what is known of a key. Once this returns, no `find` or `load` answers with its old state."""
        if (stored := self._known.pop(digest, None)) is not None:
            self._unlink(stored, digest)
        self._unknown.pop(digest, None)
        if (load := self._loads.get(digest)) is not None:
            load.stale = True

    def clear(self) -> None:
        """Drop what is known of all keys, as `forget` does of one."""
        self._known.clear()
        self._unknown.clear()
        self._digests.clear()
        for load in self._loads.values():
            load.stale = True

    def apply(self, posted: Posted) -> None:
        """Take over the totals that a posted batch changed."""
        for key_id in posted.totals:
            for digest in tuple(self._digests.get(key_id, ())):
                if posted.revision < self._known[digest].revision:
                    # Told out of order. What was told first may have been about another month, and this one's be unknown.
                    self.forget(digest)
                else:
                    self._known[digest] = _updated(self._known[digest], posted)
        if posted.totals:
            for load in self._loads.values():
                load.posted.append(posted)

    def doubt(self, key_ids: Iterable[str]) -> None:
        """Drop what is known of keys whose totals may have changed without a word of it: the store is asked again."""
        for key_id in key_ids:
            for digest in tuple(self._digests.get(key_id, ())):
                self.forget(digest)
            for load in self._loads.values():  # which may have been read before that; whose they are isn't known yet
                load.stale = True

    async def _load(self, digest: bytes, load: _Load) -> StoredKey | None:
        try:
            stored = await self._store.key_by_digest(digest)
            while load.stale:  # changed while it was being read
                load.stale = False
                stored = await self._store.key_by_digest(digest)
        finally:
            del self._loads[digest], self._tasks[digest]
        if stored is None:
            _remember(self._unknown, digest, None, self._capacity)
            return None
        # Posted after the read, applied before its result came; in the order that they were posted, not told.
        for posted in sorted(load.posted, key=lambda posted: posted.revision):
            stored = _updated(stored, posted)
        self._digests.setdefault(stored.key.id, set()).add(digest)
        if (dropped := _remember(self._known, digest, stored, self._capacity)) is not None:
            self._unlink(dropped[1], dropped[0])
        return stored

    def _unlink(self, stored: StoredKey, digest: bytes) -> None:
        digests = self._digests[stored.key.id]
        digests.discard(digest)
        if not digests:
            del self._digests[stored.key.id]


def _updated(stored: StoredKey, posted: Posted) -> StoredKey:
    """Return the key with the batch's totals, which are absolute, unless it has newer ones."""
    changed = posted.totals.get(stored.key.id)
    if changed is None or posted.revision <= stored.revision:
        return stored
    totals = Totals(changed.lifetime_nano, {**stored.totals.by_month, **changed.by_month})
    return replace(stored, totals=totals, revision=posted.revision)


def _remember(cache: OrderedDict[bytes, V], digest: bytes, value: V, capacity: int) -> tuple[bytes, V] | None:
    cache[digest] = value
    return cache.popitem(last=False) if len(cache) > capacity else None


def _retrieve(task: asyncio.Task[StoredKey | None]) -> None:
    """Mark a load's error as seen: its callers got it, if any is left."""
    if not task.cancelled():
        task.exception()
