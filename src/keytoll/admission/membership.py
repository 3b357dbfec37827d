"""Membership: this replica's lease on a shared store, and how changes of keys reach it and every other replica.

A replica admits from memory only while it is fresh: it has confirmed, at most `max_staleness_s` ago, that it knows all
changes. It renews its lease several times in that time, and each renewal brings the changes since the last one. The store
lets a lease end a little later than the replica does, which counts by a clock that never steps and from before it asked.
So whoever makes a change knows when no replica admits by the state before it: all have said that they saw it, or their
leases have run out.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import structlog

from keytoll.admission.allowances import Allowances
from keytoll.admission.cache import KeyCache
from keytoll.admission.holds import HoldBook
from keytoll.metrics import Metrics
from keytoll.store.base import KeyMonth, StoreUnavailable
from keytoll.store.replicas import Behind, Held, Lapsed, Member, ReplicaStore, Word

_log = structlog.get_logger(__name__)

_RENEWALS = 4
"""How often a lease is renewed in the time that it lasts."""

_RETRY_S = 0.2
_SWEEP_S = 10.0
_POLL_S = (0.005, 0.01, 0.02, 0.05)


class Membership:
    """One replica's membership, and its allowances. `monotonic` gives seconds of a clock that never steps.

    `longest_s` is how long a request may take: after that, a dead replica's are over.
    """

    def __init__(
        self,
        store: ReplicaStore,
        *,
        replica: str,
        cache: KeyCache,
        book: HoldBook,
        max_staleness_s: float,
        revocation_deadline_s: float,
        longest_s: float,
        monotonic: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._replica = replica
        self._cache = cache
        self._book = book
        self._max_staleness_s = max_staleness_s
        self._deadline_s = revocation_deadline_s
        self._longest_s = longest_s
        self._monotonic = monotonic
        self._metrics = metrics
        self._member = Member(replica, 0)
        self._seen = 0
        self._fresh_until_s = -1.0
        self._stirred = asyncio.Event()
        self.allowances = Allowances(
            store, member=lambda: self._member, cache=cache, held=book.of, monotonic=monotonic, metrics=metrics
        )

    @property
    def is_fresh(self) -> bool:
        """Whether what is in memory may be admitted by."""
        return self._monotonic() < self._fresh_until_s

    @property
    def problem(self) -> str | None:
        """What stands in the way of admitting anything."""
        if self.is_fresh:
            return None
        return f"the store has not confirmed this replica's view of the keys for {self._max_staleness_s:g} s"

    async def join(self) -> None:
        """Join, or join anew with nothing remembered. Raises StoreUnavailable."""
        asked_s = self._monotonic()
        held = _held(self._book)
        joined = await self._store.join(self._replica, lease_s=self._max_staleness_s, held=held)
        self._member, self._seen = joined.member, joined.seen
        self._cache.clear()
        self.allowances.joined(joined.grants)
        self._fresh_until_s = asked_s + self._max_staleness_s

    async def leave(self) -> None:
        """Say that this replica admits nothing any more, so that nobody waits for it."""
        self._fresh_until_s = -1.0
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(self._max_staleness_s):
                await self._store.leave(self._member, held=_held(self._book))

    def parts(self) -> list[Coroutine[Any, Any, object]]:
        """Return what keeps the lease, hears of changes, sweeps, and returns what is idle; each runs until cancelled.

        The first raises Superseded.
        """
        return [self._keep(), self._listen(), self._sweep(), self.allowances.run()]

    async def everywhere(self) -> Sequence[Behind]:
        """Wait until no replica admits by the state before the changes that are in the store by now.

        Returns who still may after the deadline, if any. Raises StoreUnavailable.
        """
        started_s = self._monotonic()
        seq = await self._store.last_change()
        self._stirred.set()
        waits = iter(_POLL_S)
        while behind := await self._behind(seq, until_s=started_s + self._deadline_s):
            if self._monotonic() >= started_s + self._deadline_s:
                break
            await asyncio.sleep(next(waits, _POLL_S[-1]))
        self._metrics.revocation.observe(self._monotonic() - started_s)
        return behind

    async def renew(self) -> None:
        """Renew the lease once, and take over what changed. Raises StoreUnavailable, Lapsed and Superseded."""
        if not self.is_fresh:
            raise Lapsed(self._replica)
        asked_s = self._monotonic()
        news = await self._store.renew(self._member, seen=self._seen, lease_s=self._max_staleness_s)
        for change in news.changes:
            for digest in change.digests:
                self._cache.forget(digest)
        await self.allowances.changed({change.key_id for change in news.changes})
        self._metrics.replicas.set(news.replicas)
        self._fresh_until_s = asked_s + self._max_staleness_s
        if news.seq > self._seen:
            self._seen = news.seq
            self._stirred.set()  # to say so at once

    async def _keep(self) -> NoReturn:
        told = False
        while True:
            self._stirred.clear()
            try:
                async with asyncio.timeout(self._max_staleness_s):
                    await self._renew_or_join()
                wait_s, told = self._max_staleness_s / _RENEWALS, False
            except (StoreUnavailable, TimeoutError) as error:
                self._metrics.store_errors.inc()
                wait_s = _RETRY_S
                if not told:
                    _log.warning("lease_not_renewed", error=str(error) or "no answer in time")
                    told = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), wait_s)

    async def _renew_or_join(self) -> None:
        try:
            await self.renew()
        except Lapsed:
            await self.join()
            _log.info("joined", replica=self._replica, epoch=self._member.epoch)

    async def _listen(self) -> NoReturn:
        while True:
            with suppress(StoreUnavailable):
                await self._store.listen(self._hear)
            await asyncio.sleep(_RETRY_S)

    def _hear(self, word: Word, key_id: str) -> None:
        match word:
            case Word.CHANGE:
                self._stirred.set()
            case Word.RECALL:
                self.allowances.recalled(key_id)
            case Word.RETURNED:
                self.allowances.returned(key_id)

    async def _sweep(self) -> NoReturn:
        while True:
            await asyncio.sleep(_SWEEP_S)
            with suppress(StoreUnavailable):
                if gone := await self._store.sweep(longest_s=self._longest_s):
                    _log.info("replicas_gone", replicas=gone)

    async def _behind(self, seq: int, *, until_s: float) -> Sequence[Behind]:
        """Return who is behind, also if the store doesn't answer for a moment."""
        while True:
            try:
                return await self._store.behind(seq)
            except StoreUnavailable:
                if self._monotonic() >= until_s:
                    raise
                await asyncio.sleep(_RETRY_S)


def _held(book: HoldBook) -> Held:
    return [
        (KeyMonth(key_id, month), None if held.unbounded else held.amount_nano)
        for key_id, holds in book.all()
        for month, held in holds.by_month
    ]
