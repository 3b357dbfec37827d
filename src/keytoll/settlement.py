"""Settlement: from log entries to charges, whichever source they come from.

Posting is idempotent by decision id, so a source may repeat itself, and the two sources may both tell of a request.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Any, TypeVar

import structlog

from keytoll.admission.cache import KeyCache
from keytoll.admission.holds import HoldBook
from keytoll.core.ledger import Charge, Entry, settle, unsettled
from keytoll.core.months import Calendar
from keytoll.core.pricing import Prices
from keytoll.core.quota import Totals
from keytoll.metrics import Metrics
from keytoll.store.base import Batch, Granted, KeyMonth, LedgerStore, Position, Posted, Rejected, StoreUnavailable

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_UNKNOWN = Prices(input=0, output=0, cached_input=0, cache_write=0, audio_input=0, audio_output=0)

_RETRY_S = (0.05, 0.1, 0.25, 0.5, 1.0)
"""Waits between tries while the store is away; the last one repeats. The entries wait in the journal meanwhile."""


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry, the unit prices as of its admission, and when its request ended, in microseconds since the UNIX epoch;
    the latter only to measure lag."""

    entry: Entry
    prices: Prices
    ended_at_us: int


class Settlement:
    """Prices entries and posts them in batches. One batch at a time: the source waits, and with it its sender."""

    def __init__(
        self,
        store: LedgerStore,
        *,
        cache: KeyCache,
        book: HoldBook,
        calendar: Callable[[], Calendar],
        clock: Callable[[], int],
        metrics: Metrics,
        told: Callable[[Posted], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._book = book
        self._calendar = calendar
        self._clock = clock
        self._metrics = metrics
        self._told = told
        self._prices: dict[str, Prices] = {}
        self._running: set[asyncio.Task[Posted]] = set()

    async def post(
        self, logged: Sequence[Logged], *, rejected: Sequence[Rejected] = (), positions: Sequence[Position] = ()
    ) -> Posted:
        """Charge the entries, keep the rejected ones, and note how far the journal is thereby read: all or nothing.

        Waits while the store is away, for as long as it takes. A caller that is cancelled, such as a stream that breaks,
        only stops waiting: what is charged must reach admission.
        """
        task = asyncio.ensure_future(self._settle(logged, rejected, positions))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    def void(self, request_ids: Iterable[str]) -> None:
        """End the holds of requests that ended at Envoy before Check's answer came: they didn't run and cost nothing.

        Unknown ids, and those that were told before, have no effect.
        """
        for request_id in request_ids:
            self._book.void_request(request_id)

    async def give_up(self, entries: Sequence[Entry]) -> Posted:
        """Post decisions whose log entries never came as unsettled, and end their holds."""
        now_us = self._clock()
        rows = [
            unsettled(entry, await self._price(entry.price_id), day=self._day(entry), settled_at_us=now_us)
            for entry in entries
        ]
        posted = await self._insist(partial(self._store.post, Batch(unsettled=rows)))
        self._doubt(entries, posted.unsettled)
        self._book.end(entry.decision_id for entry in entries)
        self._told(posted)
        self._metrics.unsettled.inc(len(posted.unsettled))
        for row in posted.unsettled:
            _log.error("unsettled", decision_id=str(row.entry.decision_id), key_id=row.entry.key_id)
        return posted

    async def _settle(
        self, logged: Sequence[Logged], rejected: Sequence[Rejected], positions: Sequence[Position]
    ) -> Posted:
        now_us = self._clock()
        charges = [settle(item.entry, item.prices, day=self._day(item.entry), settled_at_us=now_us) for item in logged]
        batch = Batch(charges, rejected, positions)
        posted = await self._post(batch)
        self._take_over(posted, logged)
        self._measure(logged, batch, posted)
        return posted

    def _take_over(self, posted: Posted, logged: Sequence[Logged]) -> None:
        """Let what is now in the ledger take the place of what was held for it; no Check comes in between."""
        self._cache.apply(posted)
        self._doubt([item.entry for item in logged], posted.charges)
        self._book.end(item.entry.decision_id for item in logged)
        self._told(posted)

    def _doubt(self, entries: Sequence[Entry], new: Sequence[Charge]) -> None:
        """Have the cache ask again for the keys of entries that were in the ledger already.

        Whoever posted them may not have been told of it: the store's answer was lost, or is still on its way. So the cache
        may lack their charges, and their holds are about to end.
        """
        if len(new) == len(entries):  # all of them are new
            return
        told = {charge.entry.decision_id for charge in new}
        self._cache.doubt({entry.key_id for entry in entries if entry.decision_id not in told})

    def _day(self, entry: Entry) -> str:
        return self._calendar().day(entry.admitted_at_us)

    async def _price(self, price_id: str) -> Prices:
        """Return the prices of a version. They are only told beside the amount of an unsettled row, which is 0."""
        if (prices := self._prices.get(price_id)) is None:
            found = await self._insist(partial(self._store.prices, price_id))
            prices = self._prices[price_id] = found or _UNKNOWN
        return prices

    async def _post(self, batch: Batch) -> Posted:
        try:
            return await self._insist(partial(self._store.post, batch))
        except OverflowError:
            return await self._post_one_by_one(batch)

    async def _post_one_by_one(self, batch: Batch) -> Posted:
        """Post a batch of which some charge would push a total beyond 64 bits: that one is kept out, the others count.

        The rejected ones and the positions go last, so that a crash in between only means that all is read again.
        """
        done, rejected = [], list(batch.rejected)
        for charge in batch.charges:
            try:
                done.append(await self._insist(partial(self._store.post, Batch((charge,)))))
            except OverflowError:
                _log.error("charge_overflows", charge=charge.id, key_id=charge.entry.key_id, owner=charge.entry.owner)
                rejected.append(Rejected("a total would pass 64 bits", repr(charge.entry), charge.settled_at_us))
        done.append(await self._insist(partial(self._store.post, Batch((), rejected, batch.positions))))
        return _joined(done)

    async def _insist(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call the store until it answers."""
        waits = chain(_RETRY_S, repeat(_RETRY_S[-1]))
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                self._metrics.store_errors.inc()
                _log.warning("store_unavailable", error=str(error))
                await asyncio.sleep(next(waits))

    def _measure(self, logged: Sequence[Logged], batch: Batch, posted: Posted) -> None:
        metrics = self._metrics
        metrics.count_charges(posted.charges)
        for charge in posted.charges:
            if charge.beyond_hold_nano:
                metrics.beyond_hold.inc()
                _log.error("beyond_worst_case", charge=charge.id, key_id=charge.entry.key_id, model=charge.entry.model)
        metrics.entries.labels("settled").inc(len(posted.charges))
        metrics.entries.labels("repeated").inc(posted.repeated)
        metrics.entries.labels("conflicting").inc(len(posted.conflicts))
        metrics.entries.labels("unreadable").inc(len(batch.rejected))
        now_us = self._clock()
        for item in logged:
            metrics.settlement_lag.count(max(0, now_us - item.ended_at_us) / 1_000_000)
        for charge in posted.conflicts:
            _log.error("conflicting_entry", decision_id=str(charge.entry.decision_id), key_id=charge.entry.key_id)
        for kept_out in batch.rejected:
            _log.error("entry_kept_out", reason=kept_out.reason)


def _joined(parts: Sequence[Posted]) -> Posted:
    """Return what several posts did together. Totals and grants are absolute, so the last one of a key holds."""
    totals: dict[str, Totals] = {}
    grants: dict[KeyMonth, Granted] = {}
    for part in parts:
        grants.update(part.grants)
        for key_id, changed in part.totals.items():
            before = totals.get(key_id, Totals())
            totals[key_id] = Totals(changed.lifetime_nano, {**before.by_month, **changed.by_month})
    return Posted(
        revision=max(part.revision for part in parts),
        charges=[charge for part in parts for charge in part.charges],
        repeated=sum(part.repeated for part in parts),
        conflicts=[charge for part in parts for charge in part.conflicts],
        unsettled=[charge for part in parts for charge in part.unsettled],
        totals=totals,
        grants=grants,
    )
