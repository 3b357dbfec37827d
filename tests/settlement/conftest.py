"""Settlement on each of the real stores, fed by a journal folder or by ALS messages."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from keytoll.admission.cache import KeyCache
from keytoll.admission.file import AdmissionsFile
from keytoll.admission.holds import HoldBook
from keytoll.core.months import Calendar
from keytoll.core.pricing import Prices
from keytoll.envoy.journal import JournalFollower
from keytoll.metrics import Metrics
from keytoll.settlement import Settlement
from keytoll.store.base import ChargeQuery, Store

PRICES = Prices(
    input=4_000_000_000,
    output=12_000_000_000,
    cached_input=1_000_000_000,
    cache_write=4_000_000_000,
    audio_input=4_000_000_000,
    audio_output=12_000_000_000,
)
NOW_US = 1_790_000_000_000_000


CALENDAR = Calendar(ZoneInfo("Asia/Shanghai"))


@dataclass
class Desk:
    """A store, settlement and a follower of one journal folder."""

    store: Store
    folder: Path
    metrics: Metrics = field(default_factory=Metrics)
    clock: Callable[[], int] = lambda: NOW_US

    def __post_init__(self) -> None:
        self.cache = KeyCache(self.store)
        admissions = self.folder.parent / "admissions"
        admissions.mkdir(exist_ok=True)
        file = AdmissionsFile(admissions)
        self.book = HoldBook(file, monotonic=lambda: self.clock() / 1_000_000)
        self.settlement = Settlement(
            self.store,
            cache=self.cache,
            book=self.book,
            calendar=lambda: CALENDAR,
            clock=self.clock,
            metrics=self.metrics,
        )
        self.follower = JournalFollower(
            self.folder, store=self.store, settlement=self.settlement, clock=self.clock, metrics=self.metrics
        )

    async def catch_up(self) -> None:
        """Read the journal to its end."""
        while await self.follower.read_once():
            pass

    async def charges(self) -> list[tuple[str, int]]:
        """Return decision id and amount of every charge, oldest decision first."""
        found = await self.store.list_charges(ChargeQuery(limit=10_000))
        return sorted((str(charge.entry.decision_id), charge.amount_nano) for charge in found)

    def counted(self, outcome: str) -> float:
        """Return how many entries had this outcome."""
        value = self.metrics.registry.get_sample_value("keytoll_log_entries_total", {"outcome": outcome})
        assert value is not None
        return value

    async def restarted(self) -> "Desk":
        """Return a Keytoll started anew on the same store and journal."""
        desk = Desk(self.store, self.folder, clock=self.clock)
        await desk.book.restore(self.store)
        return desk


@pytest.fixture
async def desk(store: Store, tmp_path: Path) -> Desk:
    """An empty ledger that knows one price."""
    folder = tmp_path / "journal"
    folder.mkdir()
    await store.note_prices([("m", 0, PRICES)], 0)
    desk = Desk(store, folder)
    await desk.book.restore(store)
    return desk
