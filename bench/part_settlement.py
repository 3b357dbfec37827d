"""Settlement from a cold journal into SQLite, and how long a request takes while it catches up."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import books, journal
from bench.gateway import PATIENCE_S, Gateway, backend, gateway, keytoll_serve
from bench.load import Caller
from bench.results import Row, Target
from keytoll.demo.ports import Ports

ENTRIES = Target("settlement from a cold journal into SQLite", 10_000, "entries/s", at_least=True)
P999 = Target("p99.9 of a request at 4 connections while 100,000 entries are settled", 50, "ms")
COLD_ROUNDS, COLD_ENTRIES, BUSY_ROUNDS, BUSY_ENTRIES, BUSY_S = 3, 50_000, 2, 100_000, 5
KEYS, SEGMENTS = 1000, 4


async def run() -> Sequence[Row]:
    """Measure."""
    cold = [await _cold() for _ in range(COLD_ROUNDS)]
    return [Row(ENTRIES, cold), Row(P999, await _busy())]


async def _cold() -> float:
    """Return how many entries a second a Keytoll settles that finds them at its start, its own start left out."""
    with TemporaryDirectory(prefix="keytoll-bench-") as name:
        run_dir = Path(name)
        (run_dir / "journal").mkdir(mode=0o700)
        await books.fill(run_dir / "keytoll.db", keys=KEYS, known=1)
        journal.write(run_dir / "journal" / "journal.jsonl", entries=COLD_ENTRIES, keys=KEYS)
        ports = Ports.free()
        async with keytoll_serve(run_dir, ports.metrics, ports.backend):
            return await _entries_per_s(run_dir)


async def _entries_per_s(run_dir: Path) -> float:
    first = await _until_rows(run_dir, 1)
    started_s = time.perf_counter()
    last = await _until_rows(run_dir, COLD_ENTRIES)
    return (last - first) / (time.perf_counter() - started_s)


async def _until_rows(run_dir: Path, least: int) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while (rows := books.charges_in(run_dir / "keytoll.db")) < least:
            await asyncio.sleep(0.01)
    return rows


async def _busy() -> list[float]:
    """Return, for each round, p99.9 in milliseconds of requests that come while old entries are settled."""
    with TemporaryDirectory(prefix="keytoll-bench-") as name:
        folder, ports = Path(name), Ports.free()
        async with backend(folder, ports.backend), gateway(folder, backend_port=ports.backend) as complete:
            caller = Caller(folder, [books.secret_of(0)])
            await caller.run(complete.port, connections=4, seconds=1)
            return [await _busy_round(complete, caller, number) for number in range(BUSY_ROUNDS)]


async def _busy_round(complete: Gateway, caller: Caller, number: int) -> float:
    before, first = complete.settled(), number * BUSY_ENTRIES
    each = BUSY_ENTRIES // SEGMENTS
    for segment in range(SEGMENTS):
        path = complete.run_dir / "journal" / f"journal.old-{number}-{segment}"
        journal.write(path, entries=each, keys=KEYS, first=first + segment * each)
    load = await caller.run(complete.port, connections=4, seconds=BUSY_S)
    behind = before + BUSY_ENTRIES + load.requests - complete.settled()
    print(
        f"  p50 {load.latency_us[50.0] / 1000:.2f} ms, p99 {load.latency_us[99.0] / 1000:.1f} ms, {behind} entries behind"
    )
    await complete.until_settled(before + BUSY_ENTRIES + load.requests)
    return load.latency_us[99.9] / 1000
