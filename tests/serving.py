"""A served operator API over a real store, for the tests of HTTP and of the command line."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from keytoll.admission.cache import MISS, KeyCache
from keytoll.core.ids import uuid7
from keytoll.core.keys import digest_of
from keytoll.core.ledger import Charge, Entry, settle
from keytoll.core.months import Calendar
from keytoll.core.pricing import Prices, Usage
from keytoll.http.api import About, create_api
from keytoll.http.server import serve_unix
from keytoll.management import Management
from keytoll.settings import Settings
from keytoll.store.base import Batch, StoredKey
from keytoll.store.sqlite import SqliteStore

NOW_US = 1_795_780_800_000_000
"""2026-11-27T20:00:00+08:00."""

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
    clock: Clock
    http: httpx.AsyncClient

    async def checked(self, secret: str) -> StoredKey | None:
        """Return the key that a Check would find."""
        found = self.cache.find(digest_of(secret))
        return await self.cache.load(digest_of(secret)) if found is MISS else found

    async def charge(self, key: dict[str, str], *, month: str = "2026-11", seconds: int = 0, output: int = 0) -> Charge:
        """Post the charge of a request of the key that used 10 tokens cached, 1,000 input and `output` output."""
        admitted_at_us = self.clock() + seconds * 1_000_000
        entry = Entry(
            decision_id=uuid7(admitted_at_us, os.urandom(10)),
            key_id=key["id"],
            owner=key["owner"],
            model="Qwen2.5-72B-Instruct",
            endpoint="chat/completions",
            price_id=PRICES.id,
            admitted_at_us=admitted_at_us,
            month=month,
            status=200,
            attempts=1,
            usage=Usage(input=1000, cached_input=10, output=output),
        )
        charge = settle(entry, PRICES, settled_at_us=admitted_at_us + 250_000)
        self.cache.apply(await self.store.post(Batch(charges=[charge])))
        return charge


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
    store = await SqliteStore.open(folder / "keytoll.db")
    cache = KeyCache(store)
    management = Management(store=store, cache=cache, calendar=Calendar(ZoneInfo(zone)), clock=clock, random=os.urandom)
    served.api = create_api(management, about=About(version="1.2.3", currency="CNY", billing_time_zone=zone))
    transport = httpx.AsyncHTTPTransport(uds=str(Settings(run_dir=served.run_dir).operator_socket))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://keytoll") as client:
            yield Operated(served.run_dir, store, cache, management, clock, client)
    finally:
        await store.close()
