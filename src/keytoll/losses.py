"""The loss detector: decisions whose log entry never came.

A request is certainly over once Envoy's longest stream has passed since its admission, or once the Envoy that ran it is
gone. If the journal has then been read past that and its entry is not there, it was lost: the decision is posted as
unsettled, which operators see and are alarmed by. If the entry comes after all, a correction follows.
"""

import asyncio
from collections.abc import Callable

from keytoll.admission.holds import HoldBook
from keytoll.settlement import Settlement

_SWEEP_S = 1.0
_FLUSH_US = 3_000_000
"""Envoy flushes its log each 100 ms, also when it stops; an entry that is later than this by far is lost."""

_AT_ONCE = 1000


class LossDetector:
    """Ends holds as unsettled.

    `longest_s` is Envoy's `max_stream_duration` and a grace; `read_past_us` gives an instant before which every entry
    that was written is settled; `dead_before_us` one before which the Envoy of every request is gone, 0 if not known.
    """

    def __init__(
        self,
        *,
        book: HoldBook,
        settlement: Settlement,
        longest_s: float,
        clock: Callable[[], int],
        read_past_us: Callable[[], int],
        dead_before_us: Callable[[], int],
    ) -> None:
        self._book = book
        self._settlement = settlement
        self._longest_s = longest_s
        self._clock = clock
        self._read_past_us = read_past_us
        self._dead_before_us = dead_before_us
        self._noted_us = 0
        self._started_before_s = 0.0

    async def run(self) -> None:
        """Sweep each second until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(_SWEEP_S)

    async def sweep(self) -> None:
        """Give up what is certainly over and was not logged."""
        dead_before_us, read_past_us = self._dead_before_us(), self._read_past_us()
        self._note_start(dead_before_us)
        if read_past_us < self._clock() - _FLUSH_US:
            return  # the journal holds more: what seems lost may stand there
        gone_us = dead_before_us if read_past_us > dead_before_us + _FLUSH_US else 0
        lost = self._book.older_than(
            self._longest_s, or_admitted_before_us=gone_us, if_placed_before_s=self._started_before_s
        )
        for at in range(0, len(lost), _AT_ONCE):
            await self._settlement.give_up(lost[at : at + _AT_ONCE])

    def _note_start(self, dead_before_us: int) -> None:
        """Note when it is first known that another Envoy runs: what is placed from then on is not from before it.

        The instant of admission alone doesn't tell that, since a clock may be set back.
        """
        if dead_before_us > self._noted_us:
            self._noted_us, self._started_before_s = dead_before_us, self._book.now_s
