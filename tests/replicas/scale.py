"""What replicas ask of PostgreSQL: round trips, transactions and rows a second, by their number, the requests, the keys,
whether these have a limit, and how often Envoy writes its journal. And how many charges a second it takes at most.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
from load.calls import CHAT_PATH, Ask
from postgres_server import postgres_server
from posting import Caller, calling_by_hand

from replicas.cluster import Cluster, cluster_in, new_number

WARM_S, MEASURED_S = 3.0, 8.0
_CONNECTIONS = 24
SERVER = {"shared_preload_libraries": "pg_stat_statements", "fsync": "on"}
"""Commits wait for the disk here, as they do where money depends on them."""

_STATEMENTS = """
SELECT COALESCE(sum(calls), 0) AS statements,
    COALESCE(sum(calls) FILTER (WHERE query ILIKE 'commit%'), 0) AS transactions,
    COALESCE(sum(rows) FILTER (WHERE query ~* '(insert|update|delete)'), 0) AS rows,
    COALESCE(sum(wal_bytes), 0) AS wal_bytes
FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
WHERE datname LIKE 'keytoll%' AND query NOT LIKE '%pg_stat_statements%'
"""
_TESTS = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """So many replicas, requests a second over all of them, and keys, each with a limit or none."""

    replicas: int
    per_second: float
    keys: int
    limited: bool
    flush_ms: int = 100


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted so far."""

    at_s: float
    round_trips: float
    statements: float
    transactions: float
    rows: float
    wal_bytes: float
    server_cpu_s: float
    keytoll_cpu_s: float

    def a_second_since(self, before: "Counted") -> "Counted":
        """Return how much of it there was in a second."""
        took_s = self.at_s - before.at_s
        names = [name for name in self.__slots__ if name != "at_s"]
        return Counted(took_s, *((getattr(self, name) - getattr(before, name)) / took_s for name in names))


@dataclass(frozen=True, slots=True)
class Measured:
    """A case, what it took in a second, and how many requests were answered and refused in one."""

    case: Case
    answered: float
    refused: float
    took: Counted

    def __str__(self) -> str:
        """A line of the table."""
        case, took = self.case, self.took
        kind = "limited" if case.limited else "unlimited"
        return (
            f"| {case.replicas} | {self.answered:.0f} | {case.keys} {kind} | {case.flush_ms} | {took.round_trips:.0f} |"
            f" {took.statements:.0f} | {took.transactions:.1f} | {took.rows:.0f} | {took.wal_bytes / 1024:.0f} |"
            f" {took.server_cpu_s * 100:.1f} | {took.keytoll_cpu_s * 100:.1f} |"
        )


HEAD = (
    "| replicas | requests/s | keys | journal each ms | round trips/s | statements/s | transactions/s | rows/s | WAL KiB/s |"
    " CPU of PostgreSQL % | CPU of all Keytolls % |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


async def measure(cluster: Cluster, case: Case, keys: Sequence[Mapping[str, Any]], seconds: float) -> Measured:
    """Send the case's requests at a steady rate, and count from when that is warm."""
    stop, statuses = asyncio.Event(), dict.fromkeys((True, False), 0)
    secrets = [key["secret"] for key in keys]
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        turns = count()
        for number in range(_CONNECTIONS if case.per_second else 0):
            port = cluster.replicas[number % len(cluster.replicas)].ports.data
            caller = await stack.enter_async_context(calling_by_hand(port, secret=secrets[0], path=CHAT_PATH))
            interval_s = _CONNECTIONS / case.per_second
            group.create_task(_call(caller, secrets, turns, statuses, stop, interval_s, number / case.per_second))
        try:
            await asyncio.sleep(WARM_S)
            begun, had = await _count(cluster), dict(statuses)
            await asyncio.sleep(seconds)
            took = (await _count(cluster)).a_second_since(begun)
        finally:
            stop.set()
    answered, refused = ((statuses[which] - had[which]) / took.at_s for which in (True, False))
    return Measured(case, answered, refused, took)


async def _call(
    caller: Caller,
    secrets: Sequence[str],
    turns: "count[int]",
    statuses: dict[bool, int],
    stop: asyncio.Event,
    interval_s: float,
    first_s: float,
) -> None:
    """Ask at this interval, each time with the next key."""
    due_s = time.monotonic() + first_s
    while not stop.is_set():
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        due_s += interval_s
        ask = Ask(number=new_number(), output=10, limit=20, model="exact")
        answer = await caller.post(ask.body, secret=secrets[next(turns) % len(secrets)])
        statuses[answer.status == 200] += 1


async def _count(cluster: Cluster) -> Counted:
    connection = await asyncpg.connect(cluster.postgres.url("postgres"))
    try:
        (found,) = await connection.fetch(_STATEMENTS)
    finally:
        await connection.close()
    return Counted(
        at_s=time.monotonic(),
        round_trips=sum(replica.link.round_trips for replica in cluster.replicas),
        **{name: float(each) for name, each in found.items()},
        server_cpu_s=_cpu_s(cluster.postgres.pids),
        keytoll_cpu_s=_cpu_s(replica.keytoll.pid for replica in cluster.replicas),
    )


def _cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used, and the children that they had: those of a server come and go."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has just ended, and is counted with its parent's children
    return sum(map(int, fields[11:15]))


async def make_keys(cluster: Cluster, number: int, *, limited: bool) -> Sequence[Mapping[str, Any]]:
    """Create keys that last for the measurement."""
    quota = {"kind": "total", "limit": "1000"} if limited else {"kind": "unlimited"}
    return [await cluster.new_key(owner=f"users/u{each % 100}", quota=quota) for each in range(number)]


async def _prepare(cluster: Cluster) -> None:
    connection = await asyncpg.connect(cluster.postgres.url("postgres"))
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    finally:
        await connection.close()


async def run(cases: Sequence[Case], seconds: float) -> Sequence[Measured]:
    """Measure cases that have the same number of replicas and the same journals, on one cluster."""
    done = []
    with tempfile.TemporaryDirectory() as folder:
        async with cluster_in(Path(folder), cases[0].replicas, settings=SERVER, flush_ms=cases[0].flush_ms) as cluster:
            await _prepare(cluster)
            for case in cases:
                keys = await make_keys(cluster, case.keys, limited=case.limited)
                done.append(await measure(cluster, case, keys, seconds))
                print(done[-1], flush=True)
    return done


async def post_at_once(writers: int, *, batch: int, keys: int, seconds: float) -> float:
    """Return how many charges a second so many processes post together, each a batch at a time, over the same keys."""
    with postgres_server(SERVER) as server:
        url = await server.new_database()
        command = ("-m", "replicas.writer", url, str(batch), str(keys), str(seconds))
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, *command),
                env=os.environ | {"PYTHONPATH": str(_TESTS)},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(writers)
        ]
        for process in processes:
            assert process.stdout is not None
            await process.stdout.readline()
        told = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    each = [out.split() for out, _ in told]
    return sum(int(posted) for posted, _ in each) / max(float(took_s) for _, took_s in each)


async def _most_at_once(writers: int, batch: int) -> float:
    """Return the most of some rounds: what else runs on the machine only makes it less."""
    return max([await post_at_once(writers, batch=batch, keys=200, seconds=3) for _ in range(3)])


async def main() -> int:
    """Measure all cases and print the tables; return the exit status."""
    for batch in (1, 10, 100, 1000):
        posted = [await _most_at_once(writers, batch) for writers in (1, 2, 4, 8)]
        print(f"charges/s in batches of {batch} by 1, 2, 4, 8 at once: {[round(each) for each in posted]}", flush=True)
    print(HEAD)
    bad = 0
    for replicas in (1, 2, 4, 8):
        rates = [
            Case(replicas=replicas, per_second=per_second, keys=keys, limited=limited)
            for per_second, keys, limited in (
                (0, 1, False),
                (100, 1, False),
                (100, 1, True),
                (100, 200, True),
                (300, 200, False),
                (300, 200, True),
            )
        ]
        slower = [Case(replicas=replicas, per_second=300, keys=200, limited=True, flush_ms=1000)]
        for cases in (rates, slower):
            bad += sum(each.refused > 0 for each in await run(cases, MEASURED_S))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
