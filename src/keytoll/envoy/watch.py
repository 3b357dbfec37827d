"""The watch over an Envoy's life: of which requests is it certain that they are over, since their process is gone?

Two things tell that. Envoy says for how long it has run, so what was admitted before belonged to an earlier process; in
whole seconds, so the exact instant is taken from its admin socket, whose file it makes before it serves anybody. And a
connection that is refused: the socket's file is there and nobody listens. A time-out says nothing, since the process may be
frozen or busy, nor does a missing file, since it may just not be mounted.
"""

import asyncio
import time
from collections.abc import Callable

from keytoll.envoy.admin import Admin, AdminRefused, AdminUnavailable

_LOOK_S = 1.0
_CERTAIN_S = 5.0
_ROUNDING_S = 1
_STARTING_US = 30_000_000
"""Envoy makes its admin socket within so long of its start, or that file's time is no use."""
_US = 1_000_000


class EnvoyWatch:
    """Looks each second at one Envoy. `clock` is the one that admissions are timed by.

    `bound_us` tells when the file of the admin socket was made, in microseconds of that clock; None if that isn't known.
    """

    def __init__(
        self,
        admin: Admin,
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
        bound_us: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._admin = admin
        self._clock = clock
        self._bound_us = bound_us
        self._monotonic = monotonic
        self._refused: tuple[int, float] | None = None
        self.up: bool | None = None
        """Whether Envoy runs; None if that isn't known."""
        self.dead_before_us = 0
        """Every request that was admitted before this instant is over: its Envoy is gone. It rises only when another Envoy
        is seen, or none any more, and never steps back."""

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Look once."""
        asked_us, asked_s = self._clock(), self._monotonic()
        bound_us = self._bound_us()  # before the question: a newer Envoy's than the one that answers would be too late
        try:
            uptime_s = await self._admin.uptime_s()
        except AdminRefused:
            self.up = False
            self._note_refusal(asked_us, asked_s)
        except AdminUnavailable:
            self.up = self._refused = None
        else:
            self.up, self._refused = True, None
            self._note_uptime(asked_us, uptime_s, bound_us)

    def _note_uptime(self, asked_us: int, uptime_s: int, bound_us: int | None) -> None:
        if uptime_s < 0:  # Envoy's clock was set back since it started
            return
        started_us = asked_us - (uptime_s + _ROUNDING_S) * _US
        # The rounding would leave in doubt what an Envoy ran that was gone for less than a second.
        if bound_us is not None and started_us <= bound_us <= min(started_us + _STARTING_US, asked_us):
            self._note(bound_us)
        elif started_us > self.dead_before_us + 2 * _ROUNDING_S * _US:  # else it may be the same start, rounded anew
            self._note(started_us)

    def _note_refusal(self, asked_us: int, asked_s: float) -> None:
        first_us, first_s = self._refused = self._refused or (asked_us, asked_s)
        if asked_s - first_s >= _CERTAIN_S:
            self._note(first_us)

    def _note(self, dead_before_us: int) -> None:
        self.dead_before_us = max(self.dead_before_us, dead_before_us)
