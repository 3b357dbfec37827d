"""One life of Keytoll: all its real parts over what outlives it, from a start to a crash."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

from keytoll.admission.bodies import LargeBodies
from keytoll.admission.cache import KeyCache
from keytoll.admission.file import AdmissionsFile
from keytoll.admission.holds import HoldBook
from keytoll.core.decision import Rules
from keytoll.core.offer import Offers
from keytoll.envoy.admin import Admin
from keytoll.envoy.als import AlsSink
from keytoll.envoy.check import CheckHandler
from keytoll.envoy.journal import JournalFollower
from keytoll.envoy.rotation import JournalRotation
from keytoll.envoy.watch import EnvoyWatch
from keytoll.losses import LossDetector
from keytoll.management import create_management
from keytoll.metrics import Metrics
from keytoll.settlement import Settlement
from keytoll.store.base import Store
from simulation.gates import Gates

LONGEST_S = 600.0
_CACHED_KEYS = 40
_SEGMENT_LINES = 12
_SEGMENT_BYTES = 6_000


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a Keytoll is started in. `journal` says whether the journal is followed; else ALS alone tells."""

    gates: Gates
    folder: Path
    rules: Rules
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    envoy_uptime_s: Callable[[], int]
    reopen_logs: Callable[[], None]
    random: Random
    metrics: Metrics
    journal: bool


class Keytoll:
    """Wired as `keytoll.app` does it."""

    def __init__(self, given: Surroundings) -> None:
        self.given = given
        self.gates = given.gates
        self.rules = given.rules
        self.ready = False
        self.obstacle: str | None = None
        self._store = store = cast("Store", given.gates)
        self.cache = KeyCache(store, capacity=_CACHED_KEYS, loads=24)
        self.bodies = LargeBodies(monotonic=given.monotonic)
        self.admissions = AdmissionsFile(given.folder / "admissions", segment_lines=_SEGMENT_LINES)
        self.book = HoldBook(self.admissions, monotonic=given.monotonic, on_end=self.bodies.end)
        clock, metrics = given.clock, given.metrics
        self.settlement = Settlement(
            store, cache=self.cache, book=self.book, calendar=lambda: self.rules.calendar, clock=clock, metrics=metrics
        )
        self.follower = JournalFollower(
            given.folder / "journal",
            store=store,
            settlement=self.settlement,
            clock=clock,
            metrics=metrics,
            monotonic=given.monotonic,
        )
        self.rotation = JournalRotation(
            follower=self.follower,
            writer=_LogWriter(given.reopen_logs),
            segment_bytes=_SEGMENT_BYTES,
            monotonic=given.monotonic,
        )
        self.als = AlsSink(self.settlement, clock=clock)
        self.watch = EnvoyWatch(cast("Admin", _Uptime(given.envoy_uptime_s)), clock=clock, monotonic=given.monotonic)
        self.losses = LossDetector(
            book=self.book,
            settlement=self.settlement,
            longest_s=LONGEST_S,
            clock=clock,
            read_past_us=(lambda: self.follower.read_past_us) if given.journal else clock,
            dead_before_us=lambda: self.watch.dead_before_us,
        )
        self.management = create_management(
            store=store,
            cache=self.cache,
            calendar=self.rules.calendar,
            clock=clock,
            random=given.random.randbytes,
            held=self.book.of,
        )
        self.check = CheckHandler(
            self.cache,
            book=self.book,
            bodies=self.bodies,
            rules=lambda: self.rules,
            clock=clock,
            random=given.random.randbytes,
            metrics=metrics,
            obstacle=lambda: self.obstacle,
        )

    async def start(self) -> None:
        """Note the prices, and hold again what was held; then Checks may come."""
        await self._note_prices(self.rules.offers)
        await self.book.restore(self._store)
        self.ready = True

    async def take_catalog(self, offers: Offers) -> None:
        """Let other offers and prices be in force."""
        await self._note_prices(offers)
        self.rules = Rules(self.rules.calendar, self.rules.currency, offers)

    async def sweep(self) -> None:
        """Look at Envoy, and give up what is certainly over and was not logged."""
        await self.watch.look()
        await self.losses.sweep()

    def held(self) -> dict[str, Any]:
        """Return the entries that are held, by decision."""
        return {str(entry.decision_id): entry for entry in self.book.older_than(-1.0)}

    def crash(self) -> None:
        """Stop: nothing that this Keytoll began goes on."""
        self.gates.closed = True
        self.admissions.close()

    async def _note_prices(self, offers: Offers) -> None:
        versions = [
            (offer.model, version.from_us, version.prices) for offer in offers.values() for version in offer.prices
        ]
        await self._store.note_prices(versions, at_us=self.given.clock())


class _Uptime:
    """Envoy's admin interface, as far as the watch asks it."""

    def __init__(self, uptime_s: Callable[[], int]) -> None:
        self._uptime_s = uptime_s

    async def uptime_s(self) -> int:
        return self._uptime_s()


class _LogWriter:
    """The same, as far as the rotation asks it."""

    def __init__(self, reopen: Callable[[], None]) -> None:
        self._reopen = reopen

    async def reopen_logs(self) -> None:
        self._reopen()


async def end_all() -> None:
    """Cancel every task but the one that calls: a Keytoll has crashed."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
