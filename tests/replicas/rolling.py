"""All replicas restarted one after another under load, each through its preStop hook, as a roll-out does it.

Callers reach those that are in service, by connections that they keep. No request fails, and no charge is lost.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from load.books import nano
from load.calls import CHAT_PATH, Ask
from posting import Caller, calling_by_hand

from replicas.cluster import CLOCKS_OFF_S, Cluster, cluster_in, new_number
from replicas.replica import Replica

OUTPUT, WORST = 30, 50
_DELAY_MS = 40
_REFUSED = ("insufficient_quota", "rate_limit_exceeded")
_PAUSE_S = 0.02


@dataclass(slots=True)
class Rolled:
    """What callers of two keys got, one without a limit and one whose limit runs out, and how long each restart took."""

    answers: Counter[str] = field(default_factory=Counter)
    limited: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    rows: int = 0
    unsettled: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """All of it."""
        counted = (
            f"{len(self.took_s)} restarts in {sum(self.took_s):.1f} s; answers: {dict(self.answers)}, with a limit:"
            f" {dict(self.limited)}; {self.rows} rows, {self.unsettled} unsettled"
        )
        return "\n".join([counted, *(f"VIOLATION: {each}" for each in self.violations)])


class _Service:
    """What stands before the replicas, and knows which of them take new connections."""

    def __init__(self, replicas: tuple[Replica, ...]) -> None:
        self._replicas = replicas
        self._out: set[Replica] = set()
        self._turn = count()

    def next(self) -> Replica:
        """Return the one to connect to."""
        there = [replica for replica in self._replicas if replica not in self._out]
        return there[next(self._turn) % len(there)]

    @asynccontextmanager
    async def without(self, replica: Replica) -> AsyncIterator[None]:
        """Send no new connection to a replica while the context lasts."""
        self._out.add(replica)
        try:
            yield
        finally:
            self._out.discard(replica)


async def roll(cluster: Cluster, *, callers: int, limit: str) -> Rolled:
    """Restart each replica in turn."""
    done, service = Rolled(), _Service(tuple(cluster.replicas))
    key, limited = await cluster.new_key(), await cluster.new_key(quota={"kind": "total", "limit": limit})
    stop = asyncio.Event()
    sent: dict[str, list[int]] = {key["id"]: [], limited["id"]: []}
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            of, answers = (limited, done.limited) if number % 5 == 0 else (key, done.answers)
            group.create_task(_call(service, of, answers, sent[of["id"]], stop))
        try:
            for replica in cluster.replicas:
                started_s = time.monotonic()
                async with service.without(replica):
                    await replica.end()
                    await replica.start()
                done.took_s.append(time.monotonic() - started_s)
        finally:
            stop.set()
    for of, answers in ((key, done.answers), (limited, done.limited)):
        await _audit(cluster, of, sent[of["id"]], answers, done)
    spent_nano = await cluster.used_nano(limited)
    if spent_nano >= nano(limit) + OUTPUT * 1_000_000:
        done.violations.append(f"spent {spent_nano} nano of {limit}")
    return done


async def _call(
    service: _Service, key: Mapping[str, Any], answers: Counter[str], sent: list[int], stop: asyncio.Event
) -> None:
    """Ask without end, each time on the connection that there is, or else on one to a replica in service."""
    while not stop.is_set():
        async with calling_by_hand(service.next().ports.data, secret=key["secret"], path=CHAT_PATH) as caller:
            await _call_while_connected(caller, answers, sent, stop)


async def _call_while_connected(caller: Caller, answers: Counter[str], sent: list[int], stop: asyncio.Event) -> None:
    while not stop.is_set():
        ask = Ask(number=new_number(), output=OUTPUT, limit=WORST, model="exact", delay_ms=_DELAY_MS)
        sent.append(ask.number)
        try:
            answer = await caller.post(ask.body)
        except (OSError, EOFError) as error:
            answers[repr(error)] += 1
            return
        answers[_named(answer.status, answer.body)] += 1
        if not caller.connected:
            return
        await asyncio.sleep(_PAUSE_S)


def _named(status: int, body: bytes) -> str:
    return next((code for code in _REFUSED if status == 429 and code.encode() in body), str(status))


async def _audit(
    cluster: Cluster, key: Mapping[str, Any], sent: list[int], answers: Counter[str], done: Rolled
) -> None:
    answered = cluster.answered(sent)
    rows = await cluster.until_settled(key, len(answered))
    charged = [row["input_tokens"] for row in rows if row.get("status") == 200]
    done.rows += len(rows)
    done.unsettled += len(await cluster.unsettled(key))
    wrong = {
        f"{len(answered)} answers, {len(charged)} charges": sorted(answered) != sorted(charged),
        f"answers that none gave: {answers}": answers["200"] != len(answered),
        f"failed requests: {answers}": answers.keys() - {"200", *(_REFUSED if key["quota"]["kind"] == "total" else ())},
    }
    done.violations += [text for text, is_wrong in wrong.items() if is_wrong]


async def main() -> int:
    """Run it, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        async with cluster_in(Path(folder), 3, clocks_off_s=CLOCKS_OFF_S) as cluster:
            done = await roll(cluster, callers=60, limit="20")
    print(done)
    return bool(done.violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
