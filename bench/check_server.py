"""Serves Keytoll's real Check by itself: `python -m bench.check_server TRANSPORT SOCKET STORE ADMISSIONS_FOLDER`.

There is no journal here, so that a Check's cost stands alone; a hold ends after a second.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import uvloop

from bench.load import MODEL
from keytoll import memory
from keytoll.admission.bodies import LargeBodies
from keytoll.admission.cache import KeyCache
from keytoll.admission.file import AdmissionsFile
from keytoll.admission.holds import HoldBook
from keytoll.core.decision import Rules
from keytoll.core.ledger import Admitted, Entry
from keytoll.core.months import Calendar
from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.pricing import Prices
from keytoll.envoy.check import CheckHandler
from keytoll.envoy.server import EnvoyServer
from keytoll.envoy.transport.server import Ngh2Server
from keytoll.metrics import Metrics
from keytoll.store.sqlite import SqliteStore

_PRICES = Prices(
    input=10**9, output=7 * 10**9, cached_input=10**9, cache_write=10**9, audio_input=10**9, audio_output=10**9
)
OFFER = Offer(
    model=MODEL,
    pool=f"model/{MODEL}",
    prices=(PriceVersion(0, _PRICES, _PRICES.id),),
    retries=0,
    upstream_model=MODEL,
    running_usage=False,
    context_length=100_000,
    maximum_output=8192,
)
"""The one model on offer."""

_HOLD_S = 1.0


class _Book(HoldBook):
    """Remembers what it holds, to end it at little cost."""

    def __init__(self, file: AdmissionsFile, *, on_end: Callable[[UUID], None]) -> None:
        super().__init__(file, monotonic=time.monotonic, on_end=on_end)
        self._placed: list[UUID] = []
        self._before: list[UUID] = []

    def place(self, admitted: Admitted | Entry, *, request_id: str = "") -> None:
        """Hold a request's worst case."""
        super().place(admitted, request_id=request_id)
        self._placed.append(admitted.decision_id)

    def end_those_of_before(self) -> None:
        """End what was placed before the last call."""
        self.end(self._before)
        self._before, self._placed = self._placed, []


async def serve(transport: str, socket: Path, store_path: Path, admissions: Path) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    store = await SqliteStore.open(store_path)
    bodies, metrics = LargeBodies(monotonic=time.monotonic), Metrics()
    admissions.mkdir(exist_ok=True)
    book = _Book(AdmissionsFile(admissions), on_end=bodies.end)
    await book.restore(store)
    rules = Rules(Calendar(ZoneInfo("Asia/Shanghai")), "CNY", {MODEL: OFFER})
    check = CheckHandler(
        KeyCache(store),
        book=book,
        bodies=bodies,
        rules=lambda: rules,
        clock=lambda: time.time_ns() // 1000,
        random=os.urandom,
        metrics=metrics,
    )
    server: Ngh2Server | EnvoyServer = (
        Ngh2Server(socket, check=check, void=check.void)
        if transport == "ngh2"
        else EnvoyServer(socket, check=check, void=check.void, als=None)
    )
    await server.start()
    memory.settle_in()
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _HOLD_S)
        book.end_those_of_before()
    await server.stop(grace_s=0.0)
    await store.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], *map(Path, sys.argv[2:])))
