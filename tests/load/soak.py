"""Mixed requests for a long time, at half of the rate that all of it reaches here: `make soak`, MINUTES=10 unless told.

Half of the requests are streams, of which callers leave some early. Prints the memory of Envoy and Keytoll at the start,
in the middle and at the end, and compares the ledger with the backend's own books, request by request.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
from e2e.conftest import until
from e2e.test_bodies import resident_mib

from keytoll.sockets import short_path
from load.asks import mixed
from load.books import Audit, audit, check_totals
from load.calls import Ask, Load, Outcome
from load.gateway import CountedGateway, counted_gateway
from load.plain import PlainCallers, plainly_calling

SEED = 60
DEFAULT_MINUTES = 10.0
_AT_ONCE, _TRIAL_S = 400, 20.0
_GROWTH, _SLACK_MIB = 1.25, 32.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory so many seconds after the start, in MiB, and how many requests ran.

    `envoy_spare`: what Envoy's allocator keeps of what requests took once, after a moment in which many ran at once.
    """

    at_s: float
    envoy: float
    envoy_spare: float
    keytoll: float
    running: int

    def __str__(self) -> str:
        """All of it."""
        return (
            f"{self.at_s:4.0f} s: Envoy {self.envoy:.1f} MiB, of which its allocator has {self.envoy_spare:.1f} to spare;"
            f" Keytoll {self.keytoll:.1f} MiB; {self.running} requests running"
        )


@dataclass(slots=True)
class Soaked:
    """The audit of all requests, the rate that was reached at most and the one that was kept, and the memory."""

    audit: Audit
    most_per_s: float
    sent: int
    seconds: float
    cut: int
    memory: list[Memory]

    def __str__(self) -> str:
        """All of it."""
        start, *_, end = self.memory
        middle = self.memory[len(self.memory) // 2]
        rates = (
            f"{self.most_per_s:.0f} requests a second at most; then {self.sent} in {self.seconds:.0f} s:"
            f" {self.sent / self.seconds:.0f} a second, {self.cut} of which left early"
        )
        most = max(memory.running for memory in self.memory)
        return "\n".join(map(str, (rates, start, middle, end, f"at most {most} running at once", self.audit)))


async def soak(gateway: CountedGateway, *, seconds: float, first: int = 10_000) -> Soaked:
    """Find the highest rate, keep half of it for a time, and audit both."""
    key, asks = await gateway.new_key(), mixed(Random(SEED), first=first)
    async with plainly_calling(gateway.url, key["secret"]) as callers:
        trial_s = min(_TRIAL_S, seconds)
        before = await _most(callers, asks, trial_s)
        load = Load(callers, asks, per_second=len(before) / trial_s / 2)
        async with load.running():
            memory = await _watch(gateway, callers, seconds)
    await until(lambda: _is_settled(gateway))
    outcomes = before + load.outcomes
    evidence = await gateway.evidence(key, outcomes)
    found = audit(evidence)
    check_totals(found, "the key", await gateway.used_nano(key), evidence.rows)
    _judge_memory(found, memory)
    cut = sum(outcome.ask.cut_after is not None for outcome in load.outcomes)
    return Soaked(found, len(before) / trial_s, len(load.outcomes), load.seconds, cut, memory)


async def _most(callers: PlainCallers, asks: Iterator[Ask], seconds: float) -> list[Outcome]:
    """Return what became of requests by many callers who each wait for one answer after the other."""
    end_s, outcomes = time.monotonic() + seconds, list[Outcome]()

    async def one_after_another() -> None:
        while time.monotonic() < end_s:
            outcomes.append(await callers.send(next(asks)))

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(one_after_another())
    return outcomes


async def _watch(gateway: CountedGateway, callers: PlainCallers, seconds: float) -> list[Memory]:
    """Look at the memory again and again; it is the third that counts as the start, when the load is steady."""
    started_s, found = time.monotonic(), list[Memory]()
    while (at_s := time.monotonic() - started_s) < seconds:
        stack, spare = gateway.stack, await _spare_mib(gateway.run_dir / "admin.sock")
        found.append(
            Memory(at_s, resident_mib(stack.envoy.pid), spare, resident_mib(stack.keytoll.pid), callers.running)
        )
        await asyncio.sleep(min(1.0, seconds / 60))
    return found[2:]


async def _spare_mib(admin: Path) -> float:
    with short_path(admin) as path:
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=30) as client:
            told = (await client.get("/memory")).json()
    return (int(told["heap_size"]) - int(told["allocated"])) / 2**20


async def _is_settled(gateway: CountedGateway) -> bool:
    return await gateway.metric("keytoll_holds") == 0


def _judge_memory(found: Audit, memory: list[Memory]) -> None:
    """Whatever grows with each request would be seen between the middle and the end."""
    middle, end = memory[len(memory) // 2], memory[-1]
    used = [(memory.envoy - memory.envoy_spare, memory.keytoll) for memory in (middle, end)]
    for name, before, after in zip(("Envoy", "Keytoll"), *used, strict=True):
        if after > before * _GROWTH + _SLACK_MIB:
            found.violations.append(f"{name} grew from {before:.0f} to {after:.0f} MiB")


async def main(minutes: float) -> int:
    """Run it, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        async with counted_gateway(Path(folder)) as gateway:
            done = await soak(gateway, seconds=minutes * 60)
    print(done)
    return bool(done.audit.violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_MINUTES)))
