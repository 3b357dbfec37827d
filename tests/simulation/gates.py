"""The real store behind gates: each call waits before it is made, and before its result is told.

The simulation decides which gate opens when, so every interleaving comes from its seed. A crash is then just a time at
which no gate opens any more: between two calls, or between a commit and the news of it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keytoll.store.base import Store, StoreUnavailable
from simulation.loop import SteppedLoop


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A call of the store that waits: to be made, or with `made` for its result to be told."""

    method: str
    arguments: tuple[Any, ...]
    made: bool
    go: asyncio.Future[None]


class Gates:
    """The gates of one Keytoll; they stand in for its store.

    `outage` fails calls before they are made; `lose_answer` says of each whether it fails after it was made.
    """

    def __init__(self, store: Store, loop: SteppedLoop) -> None:
        self.waiting: list[Waiting] = []
        self.outage = False
        self.lose_answer: Callable[[], bool] = lambda: False
        self.closed = False
        self._store = store
        self._loop = loop

    def __getattr__(self, method: str) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            return await self._call(method, args, options)

        return call

    def open(self, waiting: Waiting) -> None:
        """Let one call go on."""
        self.waiting.remove(waiting)
        waiting.go.set_result(None)

    async def _call(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        await self._wait(method, args, made=False)
        if self.outage:
            raise StoreUnavailable("the store is away")
        result = await self._make(method, args, options)
        if self.lose_answer():
            raise StoreUnavailable("the store's answer was lost")
        await self._wait(method, args, made=True)
        return result

    async def _make(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._loop.busy = done = self._loop.create_future()
        try:
            return await getattr(self._store, method)(*args, **options)
        finally:
            self._loop.busy = None
            done.set_result(None)

    async def _wait(self, method: str, args: tuple[Any, ...], *, made: bool) -> None:
        if self.closed:
            raise asyncio.CancelledError
        waiting = Waiting(method, args, made, self._loop.create_future())
        self.waiting.append(waiting)
        try:
            await waiting.go
        finally:
            if waiting in self.waiting:  # who called is gone
                self.waiting.remove(waiting)
