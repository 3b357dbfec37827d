"""A served operator API over a real store, for the tests of HTTP and of the command line."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from keytoll.admission.cache import MISS, KeyCache
from keytoll.core.holds import KeyHolds
from keytoll.core.ids import uuid7
from keytoll.core.ledger import Charge, Entry, Reported, settle, unsettled
from keytoll.core.months import Calendar
from keytoll.core.pricing import Prices, Usage
from keytoll.core.secrets import digest_of
from keytoll.http.api import create_api
from keytoll.http.contract.common import About
from keytoll.http.guesses import Guesses
from keytoll.http.server import serve_unix
from keytoll.http.sign_in import OperatorGate, TokenGate, Tokens
from keytoll.management import Management, create_management
from keytoll.metrics import Metrics
from keytoll.settings import Settings
from keytoll.store.base import Batch, StoredKey
from keytoll.store.replicas import Behind
from keytoll.store.sqlite import SqliteStore

NOW_US = 1_795_780_800_000_000
"""2026-11-27T20:00:00+08:00."""

HOLD_NANO = 100_000_000
"""What each request held: 0.10."""

PRICES = Prices(
    input=4_000_000_000, output=12_000_000_000, cached_input=1_000_000_000, cache_write=0, audio_input=0, audio_output=0
)


@dataclass(slots=True)
class Clock:
    """A clock that a test sets."""

    now_us: int = NOW_US

    def __call__(self) -> int:
        """Return the instant it was set to."""
        return self.now_us


@dataclass(frozen=True, slots=True)
class Operated:
    """A served operator API, with what is behind it."""

    run_dir: Path
    store: SqliteStore
    cache: KeyCache
    management: Management
    calendar: Calendar
    clock: Clock
    http: httpx.AsyncClient
    operators: ASGIApp
    people: ASGIApp
    metrics: Metrics
    holds: dict[str, KeyHolds] = field(default_factory=dict)
    behind: list[Behind] = field(default_factory=list)
    """The replicas that don't confirm what is changed."""

    async def checked(self, secret: str) -> StoredKey | None:
        """Return the key that a Check would find."""
        found = self.cache.find(digest_of(secret))
        return await self.cache.load(digest_of(secret)) if found is MISS else found

    async def charge(self, key: dict[str, str], *, month: str = "2026-11", seconds: int = 0, output: int = 0) -> Charge:
        """Post the charge of a request of the key that used 10 tokens cached, 1,000 input and `output` output."""
        entry = self.entry(key, seconds=seconds)
        reported = Reported(Usage(input=1000, cached_input=10, output=output), output_told=True)
        return await self.settle(replace(entry, month=month, reported=reported))

    async def settle(self, entry: Entry, prices: Prices = PRICES) -> Charge:
        """Post the charge of an entry a quarter of a second after its admission, and return it as it was posted."""
        charge = settle(entry, prices, day=self._day(entry), settled_at_us=entry.admitted_at_us + 250_000)
        posted = await self.store.post(Batch(charges=[charge]))
        self.cache.apply(posted)
        return posted.charges[0]

    async def give_up(self, entry: Entry) -> Charge:
        """Post that the entry of a decision never came, an hour after its admission."""
        row = unsettled(entry, PRICES, day=self._day(entry), settled_at_us=entry.admitted_at_us + 3_600_000_000)
        await self.store.post(Batch(unsettled=[row]))
        return row

    def _day(self, entry: Entry) -> str:
        return self.calendar.day(entry.admitted_at_us)

    def entry(self, key: dict[str, str], *, seconds: int = 0) -> Entry:
        """Return the entry of an answered chat request of the key, without any usage."""
        admitted_at_us = self.clock() + seconds * 1_000_000
        return Entry(
            decision_id=uuid7(admitted_at_us, os.urandom(10)),
            key_id=key["id"],
            owner=key["owner"],
            model="Qwen2.5-72B-Instruct",
            endpoint="chat/completions",
            price_id=PRICES.id,
            admitted_at_us=admitted_at_us,
            month="2026-11",
            status=200,
            attempts=1,
            reported=None,
            request_bytes=4001,
            answer_bytes=400,
            hold_nano=HOLD_NANO,
        )


class Socket:
    """An operator's socket that is served all the time, with whichever API a test puts behind it.

    A server takes a moment to stop, which not every test needs to wait for.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.api: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        assert self.api is not None
        await self.api(scope, receive, send)


@asynccontextmanager
async def served_socket(run_dir: Path) -> AsyncIterator[Socket]:
    """Serve the operator's socket in `run_dir`."""
    served = Socket(run_dir)
    async with serve_unix(served, Settings(run_dir=run_dir).operator_socket):
        yield served


@asynccontextmanager
async def operated(served: Socket, folder: Path, *, zone: str = "Asia/Shanghai") -> AsyncIterator[Operated]:
    """Put the API of an empty store in `folder` behind the socket, at the instant NOW_US."""
    clock = Clock()
    holds: dict[str, KeyHolds] = {}
    behind: list[Behind] = []
    store = await SqliteStore.open(folder / "keytoll.db")
    cache, calendar = KeyCache(store), Calendar(ZoneInfo(zone))

    async def everywhere() -> list[Behind]:
        return behind

    management = create_management(
        store=store,
        cache=cache,
        calendar=calendar,
        clock=clock,
        random=os.urandom,
        held=lambda key_id: holds.get(key_id, KeyHolds()),
        everywhere=everywhere,
    )
    about = About(version="1.2.3", currency="CNY", billing_time_zone=zone, base_url=None)
    metrics, guesses = Metrics(), Guesses(monotonic=lambda: clock.now_us / 1_000_000)
    tokens = Tokens(management.owners.authenticate, guesses=guesses, metrics=metrics)
    served.api = operators = create_api(management, about=about, gate=OperatorGate(tokens), metrics=metrics)
    people = create_api(management, about=about, gate=TokenGate(tokens), metrics=metrics)
    transport = httpx.AsyncHTTPTransport(uds=str(Settings(run_dir=served.run_dir).operator_socket))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://keytoll") as client:
            yield Operated(
                served.run_dir,
                store,
                cache,
                management,
                calendar,
                clock,
                client,
                operators,
                people,
                metrics,
                holds,
                behind,
            )
    finally:
        await store.close()
