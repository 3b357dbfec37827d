"""PostgreSQL away while three replicas are under load: frozen, stopped, and with its first process killed.

What was admitted before is answered. Soon everything is refused, and everything is well again once the server is back.
Every answer is charged exactly once.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
from e2e.conftest import until
from load.asks import mixed
from load.books import Audit, audit, nano
from load.calls import CHAT_PATH, Ask, Load, calling
from postgres_server import PostgresServer
from posting import Caller, calling_by_hand

from replicas.cluster import CLOCKS_OFF_S, Cluster, cluster_in, new_number, new_numbers

SEED = 60
_SMALL_LIMIT, _SMALL_WORST, _SMALL_OUTPUT = "3", 100, 60
_WELL = 60
"""So many answers show that all replicas are well."""

_WAYS: Mapping[str, tuple[Callable[[PostgresServer], None], Callable[[PostgresServer], None]]] = {
    "frozen": (PostgresServer.freeze, PostgresServer.thaw),
    "stopped": (PostgresServer.stop, PostgresServer.start),
    "killed": (PostgresServer.kill, PostgresServer.start),
}
WAYS = tuple(_WAYS)


@dataclass(slots=True)
class Outage:
    """The audit of the load; the charges before the outage and at its end, how many were refused in it, how long after its
    begin something was admitted, and how long after its end every replica admitted again."""

    audit: Audit
    seconds: float
    charged_before: int
    charged_soon: int
    refused: int
    admitted_for_s: float
    well_after_s: float

    def __str__(self) -> str:
        """All of it."""
        return (
            f"{self.seconds:.0f} s of load; away, the last was admitted {self.admitted_for_s:.1f} s after its begin, and"
            f" {self.refused} were refused; all replicas admitted again {self.well_after_s:.1f} s after its end; rows:"
            f" {self.charged_before} before, {self.charged_soon} then, {self.audit.charged + self.audit.free} at last\n"
            f"{self.audit}"
        )


async def outage(cluster: Cluster, way: str, *, away_s: float, per_second: float) -> Outage:
    """Take PostgreSQL away for a time under load."""
    leave, come_back = _WAYS[way]
    key, small_key = await cluster.new_key(), await cluster.new_key(quota={"kind": "total", "limit": _SMALL_LIMIT})
    async with (
        calling(*cluster.urls, secret=key["secret"]) as callers,
        calling(*cluster.urls, secret=small_key["secret"]) as small_callers,
    ):
        load = Load(callers, mixed(Random(SEED), first=new_numbers()), per_second=per_second)
        small = Load(small_callers, _small_asks(), per_second=per_second / 10)
        async with load.running(), small.running():
            await load.more(_WELL)
            charged_before = len(await cluster.rows(key))
            await asyncio.to_thread(leave, cluster.postgres)
            left_s, refused = time.monotonic(), load.ended(503)
            try:
                admitted_for_s = await _last_admitted(load, left_s, left_s + away_s) - left_s
                refused = load.ended(503) - refused
            finally:
                await asyncio.to_thread(come_back, cluster.postgres)
            back_s = time.monotonic()
            await _until_all_admit(cluster)
            well_after_s = time.monotonic() - back_s
            charged_soon = len(await cluster.rows(key))
            await load.more(_WELL)
    await cluster.until_nothing_is_held()
    found = audit(await cluster.evidence(key, load.outcomes))
    found.violations += await _violations_of_small(cluster, small_key, small)
    return Outage(found, load.seconds, charged_before, charged_soon, refused, admitted_for_s, well_after_s)


def _small_asks() -> Iterator[Ask]:
    while True:
        yield Ask(number=new_number(), output=_SMALL_OUTPUT, limit=_SMALL_WORST, model="exact", delay_ms=100)


async def _violations_of_small(cluster: Cluster, key: Mapping[str, Any], load: Load) -> Iterator[str]:
    """Audit the key with a small quota, which runs dry if the load lasts."""
    answered = cluster.answered(outcome.ask.number for outcome in load.outcomes)
    charged = [
        row["input_tokens"] for row in await cluster.until_settled(key, len(answered)) if row.get("status") == 200
    ]
    cost_nano, spent_nano = _SMALL_OUTPUT * 1_000_000, await cluster.used_nano(key)
    wrong = {
        f"{len(answered)} answers, {len(charged)} charges": sorted(answered) != sorted(charged),
        f"spent {spent_nano} nano in {len(answered)} answers": spent_nano != len(answered) * cost_nano,
        f"spent {spent_nano} nano of {_SMALL_LIMIT}": spent_nano >= nano(_SMALL_LIMIT) + cost_nano,
        "no answer at all": not answered,
    }
    return (f"the small key: {text}" for text, is_wrong in wrong.items() if is_wrong)


async def _last_admitted(load: Load, left_s: float, end_s: float) -> float:
    """Watch the load until an instant; return when the last answer of 200 was seen to come."""
    last_s, admitted = left_s, load.ended(200)
    while time.monotonic() < end_s:
        await asyncio.sleep(0.05)
        if load.ended(200) > admitted:
            last_s, admitted = time.monotonic(), load.ended(200)
    return last_s


async def _until_all_admit(cluster: Cluster) -> None:
    """Return once each replica admits a key that it doesn't know yet."""
    key: list[Mapping[str, Any]] = []

    async def made() -> bool:
        with suppress(AssertionError, httpx.TransportError):
            key.append(await cluster.new_key())
        return bool(key)

    await until(made)
    for replica in cluster.replicas:
        async with calling_by_hand(replica.ports.data, secret=key[0]["secret"], path=CHAT_PATH) as caller:
            await until(lambda caller=caller: _admits(caller))  # type: ignore[misc]


async def _admits(caller: Caller) -> bool:
    ask = Ask(number=new_number(), output=1, limit=1, model="exact")
    return (await caller.post(ask.body)).status == 200


async def main() -> int:
    """Run all, and return the exit status."""
    violations = 0
    with tempfile.TemporaryDirectory() as folder:
        async with cluster_in(Path(folder), 3, clocks_off_s=CLOCKS_OFF_S) as cluster:
            for way in WAYS:
                done = await outage(cluster, way, away_s=60, per_second=120)
                print(f"PostgreSQL {way} for 60 s: {done}", flush=True)
                violations += len(done.audit.violations)
    return bool(violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
