"""Replicas on one PostgreSQL database in one process: each with a cache, holds, allowances, a lease and Check of its own."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

from changes import keep_key
from store.builders import make_key, unique

from keytoll.admission.bodies import LargeBodies
from keytoll.admission.cache import KeyCache
from keytoll.admission.file import AdmissionsFile
from keytoll.admission.holds import HoldBook
from keytoll.admission.membership import Membership
from keytoll.core.decision import Rules
from keytoll.core.keys import Key
from keytoll.core.ledger import Entry, Reported
from keytoll.core.months import Calendar
from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.pricing import Prices, Usage
from keytoll.core.quota import Quota, QuotaKind
from keytoll.core.secrets import KEY_PREFIX, digest_of, mint
from keytoll.envoy.check import CheckHandler
from keytoll.envoy.messages.check_pb2 import CheckRequest, CheckResponse
from keytoll.management import Management, create_management
from keytoll.metrics import Metrics
from keytoll.settlement import Logged, Settlement
from keytoll.store.postgres import PostgresStore
from keytoll.store.postgres.database import BOUNDS, Bounds
from keytoll.store.replicas import Superseded

NOW_US = 1_790_000_000_123_456
MONTH = "2026-09"
STALENESS_S = 3.0
LONGEST_S = 60.0
A_TOKEN = Prices(input=0, output=1_000_000, cached_input=0, cache_write=0, audio_input=0, audio_output=0)
"""A nano-unit for each token of output, so that a token limit is the worst case."""

OFFER = Offer(
    model="m",
    pool="model/m",
    prices=(PriceVersion(0, A_TOKEN, A_TOKEN.id),),
    retries=0,
    upstream_model="m",
    running_usage=False,
    context_length=100_000,
    maximum_output=100_000,
)
CALENDAR = Calendar(ZoneInfo("Asia/Shanghai"))


class Replica:
    """One replica. Its clock stands still unless a test moves it: `late_s` is added to the real one."""

    def __init__(self, name: str, store: PostgresStore, folder: Path, *, staleness_s: float, deadline_s: float) -> None:
        self.name = name
        self.store = store
        self.metrics = Metrics()
        self.now_us = NOW_US
        self.late_s = 0.0
        self.cache = KeyCache(store)
        self.book = HoldBook(AdmissionsFile(folder), monotonic=self.monotonic)
        self.membership = Membership(
            store,
            replica=name,
            cache=self.cache,
            book=self.book,
            max_staleness_s=staleness_s,
            revocation_deadline_s=deadline_s,
            longest_s=LONGEST_S,
            monotonic=self.monotonic,
            metrics=self.metrics,
        )
        self.allowances = self.membership.allowances
        self.settlement = Settlement(
            store,
            cache=self.cache,
            book=self.book,
            calendar=lambda: CALENDAR,
            clock=lambda: self.now_us,
            metrics=self.metrics,
            told=self.allowances.told,
        )
        rules = Rules(CALENDAR, "CNY", {"m": OFFER})
        self.handler = CheckHandler(
            self.cache,
            book=self.book,
            bodies=LargeBodies(monotonic=self.monotonic),
            rules=lambda: rules,
            clock=lambda: self.now_us,
            random=os.urandom,
            metrics=self.metrics,
            membership=self.membership,
        )
        self.management: Management = create_management(
            store=store,
            cache=self.cache,
            calendar=CALENDAR,
            clock=lambda: self.now_us,
            random=os.urandom,
            held=self.book.of,
            everywhere=self.membership.everywhere,
        )
        self._parts: list[asyncio.Task[object]] = []

    def monotonic(self) -> float:
        """Return seconds of a clock that a test may move forward."""
        return asyncio.get_running_loop().time() + self.late_s

    async def join(self) -> None:
        """Hold again what is in the admissions file, and join."""
        await self.book.restore(self.store)
        await self.membership.join()

    def live(self) -> None:
        """Keep the lease and hear of changes, until `freeze`."""
        self._parts = [asyncio.create_task(part) for part in self.membership.parts()]

    async def freeze(self) -> None:
        """Do nothing of that any more."""
        for part in self._parts:
            part.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)

    async def ended(self) -> str:
        """Return why this replica ends, once it does."""
        done, _ = await asyncio.wait(self._parts, return_when=asyncio.FIRST_COMPLETED)
        try:
            await done.pop()
        except Superseded as error:
            return str(error)
        raise AssertionError("it ended for no reason")

    async def ask(self, secret: str, tokens: int | None = None) -> str:
        """Ask what may come to so many tokens, None for what can't be bounded; return `allowed` or the error's code."""
        message = CheckRequest()
        http = message.attributes.request.http
        http.method, http.path = "POST", "/v1/chat/completions"
        http.headers.update({"content-type": "application/json", "content-length": "1"})
        http.headers["authorization"] = f"Bearer {secret}"
        message.attributes.context_extensions["kind"] = "full"
        facts: dict[str, str | int] = {"model": "m"}
        if tokens is None:
            http.path = "/v1/audio/transcriptions"
            http.headers["content-type"] = "multipart/form-data; boundary=x"
        else:
            facts["max_tokens"] = tokens
        message.attributes.metadata_context.filter_metadata["kt.req"].update(facts)
        answer = self.handler(message.SerializeToString())
        response = CheckResponse.FromString(answer if isinstance(answer, bytes) else await answer)
        if not response.denied_response.body:
            return "allowed"
        return str(json.loads(response.denied_response.body)["error"]["code"])

    def under_way(self) -> list[Entry]:
        """Return what is admitted and not settled."""
        return self.book.older_than(-1)

    async def settle(self, tokens: int | None = None, entries: Sequence[Entry] | None = None) -> int:
        """Settle what is under way, each for so many tokens, or for its worst case; return what was charged."""
        ended = self.under_way() if entries is None else entries
        logged = [self._logged(entry, tokens) for entry in ended]
        posted = await self.settlement.post(logged)
        return sum(charge.amount_nano for charge in posted.charges)

    def _logged(self, entry: Entry, tokens: int | None) -> Logged:
        output = tokens if tokens is not None else entry.hold_nano or 0
        told = Reported(Usage(output=output), output_told=True)
        return Logged(replace(entry, status=200, attempts=1, reported=told), A_TOKEN, self.now_us)


@asynccontextmanager
async def replica_on(
    url: str,
    name: str,
    folder: Path,
    *,
    staleness_s: float = STALENESS_S,
    deadline_s: float = 5.0,
    bounds: Bounds = BOUNDS,
) -> AsyncIterator[Replica]:
    """Give a replica that has joined. It lives on when the test says so."""
    store = await PostgresStore.open(url, bounds)
    folder.mkdir(exist_ok=True)
    replica = Replica(name, store, folder, staleness_s=staleness_s, deadline_s=deadline_s)
    try:
        await replica.join()
        yield replica
    finally:
        await replica.freeze()
        await store.close()


async def new_key(replica: Replica, limit_nano: int | None, kind: QuotaKind = QuotaKind.TOTAL) -> tuple[Key, str]:
    """Keep a new key; return it with its secret."""
    secret = mint(KEY_PREFIX, os.urandom(32))
    quota = Quota() if limit_nano is None else Quota(kind, limit_nano)
    key = replace(make_key(name=unique("key "), quota=quota), digest=digest_of(secret), last4=secret[-4:])
    await keep_key(replica.store, key)
    return key, secret
