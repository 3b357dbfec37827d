"""An event loop whose time moves only when told to, and which can be run until nothing more happens by itself."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")

_QUIET_ROUNDS = 2
"""Timers that are due join a round behind what is scheduled: what they begin is seen in the next one."""


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, `now_s`. `busy` is set while a thread works for it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.busy: asyncio.Future[None] | None = None
        self._calls = 0
        super().__init__()

    def time(self) -> float:
        """Return the simulated time, in seconds."""
        return self.now_s

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Schedule a call, and count it."""
        self._calls += 1
        return super().call_soon(callback, *args, context=context)

    async def idle(self) -> None:
        """Return when nothing else will happen before time moves or something is let go on."""
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            if self.busy is not None:
                await self.busy
            before = self._calls
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._calls == before + 1 and self.busy is None else 0
