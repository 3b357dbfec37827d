"""A million keys and a million charges beside a thousand of each: Check, memory, cold keys and the start."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import books, envoys
from bench.gateway import backend, seconds_to_ready
from bench.load import Caller
from bench.processes import cpu_us, envoy, python, resident_mib
from bench.results import Row, Target, ratios
from keytoll.demo.ports import Ports

CPU = Target("CPU of a Check with 1,000,000 keys in the store, of that with 1,000", 1.1)
MEMORY = Target("resident memory with 1,000,000 keys in the store, of that with 1,000", 1.5)
COLD = Target("first request of a cold key among 1,000,000, p99", 10, "ms")
START = Target("start to ready with 1,000,000 keys and 1,000,000 charges", 2, "s")
MANY, FEW, CALLING = 1_000_000, 1000, 1000
ROUNDS, SECONDS, CONNECTIONS, COLD_S, COLD_KEYS = 5, 3, 32, 1, 5000


@dataclass
class _Store:
    """Check's server on one store, and what each round measured."""

    path: Path
    pid: int
    port: int
    us: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    cold_ms: list[float] = field(default_factory=list)

    async def measure(self, caller: Caller) -> None:
        before_us = cpu_us(self.pid)
        load = await caller.run(self.port, connections=CONNECTIONS, seconds=SECONDS)
        self.us.append((cpu_us(self.pid) - before_us) / load.requests)
        self.mib.append(resident_mib(self.pid))


async def run() -> Sequence[Row]:
    """Measure."""
    with TemporaryDirectory(prefix="keytoll-bench-") as name:
        folder, ports = Path(name), Ports.free()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(backend(folder, ports.backend))
            few = await _store(stack, folder / "few", ports.backend, keys=FEW, known=CALLING)
            many = await _store(stack, folder / "many", ports.backend, keys=MANY, known=CALLING + ROUNDS * COLD_KEYS)
            await _take_turns(few, many, folder)
        start = [await _start(folder / "many", ports) for _ in range(ROUNDS)]
    print(f"  {min(few.us):.1f} and {min(many.us):.1f} us of CPU, {max(few.mib):.0f} and {max(many.mib):.0f} MiB")
    return [
        Row(CPU, ratios(many.us, few.us)),
        Row(MEMORY, ratios(many.mib, few.mib)),
        Row(COLD, many.cold_ms),
        Row(START, start),
    ]


async def _store(stack: AsyncExitStack, folder: Path, backend_port: int, *, keys: int, known: int) -> _Store:
    folder.mkdir()
    path, socket, port = folder / "keytoll.db", folder / "check.sock", Ports.free().data
    await books.fill(path, keys=keys, known=known, charges=keys)
    server = await stack.enter_async_context(
        python("bench.check_server", "ngh2", str(socket), str(path), str(folder / "held"), folder=folder, socket=socket)
    )
    config = envoys.check_only("check", port, backend_port, socket)
    await stack.enter_async_context(envoy("check", config, folder=folder))
    return _Store(path, server.pid, port)


async def _take_turns(few: _Store, many: _Store, folder: Path) -> None:
    caller = Caller(folder, [books.secret_of(number) for number in range(CALLING)])
    for each in (few, many):
        await caller.run(each.port, connections=CONNECTIONS, seconds=1)
    for number in range(ROUNDS):
        for each in (few, many):
            await each.measure(caller)
        await _measure_cold(many, folder, CALLING + number * COLD_KEYS)


async def _measure_cold(many: _Store, folder: Path, first: int) -> None:
    """Ask with keys that nobody has asked with since the start, one at a time, their pages not in memory either."""
    caller = Caller(folder, [books.secret_of(number) for number in range(first, first + COLD_KEYS)], name="cold")
    await asyncio.to_thread(_forget_pages, many.path)
    load = await caller.run(many.port, connections=1, seconds=COLD_S)
    if load.requests > COLD_KEYS:
        print(f"  {load.requests - COLD_KEYS} of {load.requests} requests of cold keys came again")
    many.cold_ms.append(load.latency_us[99.0] / 1000)


async def _start(folder: Path, ports: Ports) -> float:
    await asyncio.to_thread(_forget_pages, folder / "keytoll.db")
    return await seconds_to_ready(folder, ports.metrics, ports.backend)


def _forget_pages(path: Path) -> None:
    """Have the kernel drop what it keeps of a file."""
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
