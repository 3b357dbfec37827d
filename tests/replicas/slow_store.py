"""A PostgreSQL that is far away: 300 ms each way. A request whose key a replica has in memory doesn't wait for it."""

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from load.calls import CHAT_PATH, Ask
from posting import Caller, calling_by_hand

from replicas.cluster import Cluster, cluster_in, new_number

DELAY_S = 0.3
KINDS = ("unlimited", "total", "monthly")


@dataclass(slots=True)
class Slowed:
    """How long requests of a kind of key took with the store near and far, one after another, and what they got."""

    kind: str
    near_s: list[float] = field(default_factory=list)
    far_s: list[float] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    rows: int = 0

    def __str__(self) -> str:
        """All of it."""
        near, far = (
            f"median {median(each) * 1000:.1f} ms, at most {max(each) * 1000:.0f} ms"
            for each in (self.near_s, self.far_s)
        )
        return f"{self.kind}: {len(self.near_s)} requests with the store near: {near}; far: {far}; {self.rows} rows"


async def slow_down(cluster: Cluster, kind: str, *, requests: int) -> Slowed:
    """Send requests to one replica, one after another; first with the store near, then with it far."""
    quota = {"kind": kind} if kind == "unlimited" else {"kind": kind, "limit": "1000"}
    replica, done, key = cluster.replicas[0], Slowed(kind), await cluster.new_key(quota=quota)
    async with calling_by_hand(replica.ports.data, secret=key["secret"], path=CHAT_PATH) as caller:
        await _call(caller, done, [], 10)
        await _call(caller, done, done.near_s, requests)
        replica.link.delay(DELAY_S)
        try:
            await _call(caller, done, done.far_s, requests)
        finally:
            replica.link.restore()
    done.rows = len(await cluster.until_settled(key, 10 + 2 * requests))
    return done


async def _call(caller: Caller, done: Slowed, took_s: list[float], requests: int) -> None:
    for _ in range(requests):
        ask = Ask(number=new_number(), output=1, limit=1, model="exact")
        started_s = time.monotonic()
        done.statuses.add((await caller.post(ask.body)).status)
        took_s.append(time.monotonic() - started_s)


async def main() -> int:
    """Run it, and return the exit status."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        async with cluster_in(Path(folder), 3) as cluster:
            for kind in KINDS:
                done = await slow_down(cluster, kind, requests=500)
                print(done, flush=True)
                wrong += done.statuses != {200}
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
