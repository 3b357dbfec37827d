"""Faults to plant: each breaks one promise about money, as a mistake in the code would. The simulation must find it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from keytoll import losses, settlement
from keytoll.admission import cache
from keytoll.admission.cache import KeyCache
from keytoll.admission.file import AdmissionsFile
from keytoll.core import decision
from keytoll.core.ledger import Charge, Entry
from keytoll.core.ledger import settle as real_settle
from keytoll.core.months import Calendar, Month
from keytoll.core.pricing import Prices
from keytoll.losses import LossDetector
from keytoll.settlement import Settlement
from keytoll.store.base import Batch, Posted, StoreUnavailable
from keytoll.store.sql import sums

_HOUR_US = 3_600_000_000


def hold_dropped_at_restart(patch: pytest.MonkeyPatch) -> None:
    """A restart forgets one of the admissions in the file."""
    real = AdmissionsFile.open
    patch.setattr(AdmissionsFile, "open", lambda self: real(self)[:-1])


def charge_counted_twice(patch: pytest.MonkeyPatch) -> None:
    """Where a batch has several charges, the totals count one of them twice."""
    real = sums.by_account

    def twice(charges: Iterable[Charge]) -> Mapping[tuple[str, str], int]:
        given = list(charges)
        return real([*given, *given[1:2]])

    patch.setattr(sums, "by_account", twice)


def month_off_by_an_hour(patch: pytest.MonkeyPatch) -> None:
    """A month begins an hour early, as it would if somebody took the zone for another one."""
    real = Calendar.month

    def early(self: Calendar, at_us: int) -> Month:
        return real(self, at_us + _HOUR_US)

    patch.setattr(Calendar, "month", early)


def estimate_beyond_its_hold(patch: pytest.MonkeyPatch) -> None:
    """What is estimated may cost more than the worst case that was held."""

    def uncapped(entry: Entry, prices: Prices, *, day: str, settled_at_us: int) -> Charge:
        charge = real_settle(replace(entry, hold_nano=None), prices, day=day, settled_at_us=settled_at_us)
        return replace(charge, entry=entry)

    patch.setattr(settlement, "settle", uncapped)


def entry_lost_at_a_retry(patch: pytest.MonkeyPatch) -> None:
    """A batch that the store was away for is posted again without its first entry."""
    real = Settlement._post

    async def lossy(self: Settlement, batch: Batch) -> Posted:
        try:
            return await self._store.post(batch)
        except StoreUnavailable:
            return await real(self, replace(batch, charges=batch.charges[1:]))

    patch.setattr(Settlement, "_post", lossy)


def totals_not_updated_in_the_cache(patch: pytest.MonkeyPatch) -> None:
    """What is charged doesn't reach the totals that admission decides by."""
    patch.setattr(KeyCache, "apply", _nothing)


def batches_told_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """The cache takes what it was told last for all that there is."""

    def trusting(self: KeyCache, posted: Posted) -> None:
        for key_id in posted.totals:
            for digest in self._digests.get(key_id, ()):
                self._known[digest] = cache._updated(self._known[digest], posted)
        for load in self._loads.values():
            load.posted.append(posted)

    patch.setattr(KeyCache, "apply", trusting)


def room_for_everybody(patch: pytest.MonkeyPatch) -> None:
    """A key that isn't spent is let through, whatever its other requests hold."""
    patch.setattr(decision, "fits", lambda **_: True)


def old_key_goes_on(patch: pytest.MonkeyPatch) -> None:
    """An edit or a deletion isn't told to the cache."""
    patch.setattr(KeyCache, "forget", _nothing)


def lost_answer_taken_for_none(patch: pytest.MonkeyPatch) -> None:
    """A charge whose commit was not heard of never reaches the cache."""
    patch.setattr(KeyCache, "doubt", _nothing)


def broken_stream_stops_settlement(patch: pytest.MonkeyPatch) -> None:
    """What a stream had sent is half settled when it breaks."""

    async def unshielded(self: Settlement, logged: Any, *, rejected: Any = (), positions: Any = ()) -> Posted:
        return await self._settle(logged, rejected, positions)

    patch.setattr(Settlement, "post", unshielded)


def clock_set_back_ends_holds(patch: pytest.MonkeyPatch) -> None:
    """Which requests were those of an Envoy that is gone is told by the wall clock alone."""

    def trusting(self: LossDetector, _: int) -> None:
        self._started_before_s = inf

    patch.setattr(LossDetector, "_note_start", trusting)


def given_up_while_in_the_journal(patch: pytest.MonkeyPatch) -> None:
    """What is over is given up though the journal is not read so far."""
    patch.setattr(losses, "_FLUSH_US", 10**18)


def _nothing(*_: Any) -> None:
    """Do nothing."""


FAULTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, ...]] = {
    hold_dropped_at_restart: (),
    charge_counted_twice: (),
    month_off_by_an_hour: (),
    estimate_beyond_its_hold: (),
    entry_lost_at_a_retry: (),
    totals_not_updated_in_the_cache: (),
    batches_told_out_of_order: ("set-clock", "send-messages", "log-late"),
    room_for_everybody: (),
    old_key_goes_on: (),
    lost_answer_taken_for_none: (),
    broken_stream_stops_settlement: ("break-stream", "send-messages"),
    clock_set_back_ends_holds: ("set-clock", "sweep"),
    given_up_while_in_the_journal: ("pass-long", "sweep"),
}
"""The faults, and what must happen often for each to show soon."""
