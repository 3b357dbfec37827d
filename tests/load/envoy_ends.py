"""Envoy ended under load, by SIGTERM, by which nothing may be lost, and by SIGKILL, of which all that was lost must be
listed as unsettled: while it is away, and after it was started again.
"""

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from load.asks import mixed
from load.books import Audit, audit
from load.calls import Load, calling
from load.gateway import CountedGateway, counted_gateway

SEED = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How often Envoy is ended and in which way, and how many requests a second are sent.

    `stays_away`: after the last time it is started again only once Keytoll has listed what was lost.
    """

    ends: int
    by_kill: bool
    stays_away: bool = False
    per_second: float = 200
    answers_between: tuple[int, int] = (400, 700)


@dataclass(slots=True)
class Ended:
    """The audit of the load, and how long after Envoy's last end nothing was held any more."""

    audit: Audit
    seconds: float
    settled_after_s: float

    def __str__(self) -> str:
        """All of it."""
        sent = sum(self.audit.statuses.values())
        return (
            f"{sent} requests in {self.seconds:.1f} s: {sent / self.seconds:.0f} a second\n{self.audit}\n"
            f"nothing was held any more {self.settled_after_s:.1f} s after the last end"
        )


async def end_envoy(gateway: CountedGateway, plan: Plan, *, first: int = 10_000) -> Ended:
    """Carry out the plan."""
    key = await gateway.new_key()
    async with calling(gateway.url, secret=key["secret"]) as callers:
        load = Load(callers, mixed(Random(SEED), first=first), per_second=plan.per_second)
        async with load.running():
            ended_s = await _end(load, gateway, plan)
    await gateway.until_told(key, load.outcomes)
    settled_after_s = time.monotonic() - ended_s
    if plan.stays_away:
        await gateway.stack.envoy.start()
    evidence = await gateway.evidence(key, load.outcomes)
    return Ended(audit(evidence, lossy=plan.by_kill), load.seconds, settled_after_s)


async def _end(load: Load, gateway: CountedGateway, plan: Plan) -> float:
    """Return the instant of the last end, in seconds of the monotonic clock."""
    random, envoy = Random(SEED), gateway.stack.envoy
    for left in reversed(range(plan.ends)):
        await load.more(random.randint(*plan.answers_between))
        await (envoy.kill() if plan.by_kill else envoy.stop())
        ended_s = time.monotonic()
        if left or not plan.stays_away:
            await envoy.launch()  # at once; that it is ready shows in the answers
            await load.more(50)
    return ended_s


async def main() -> int:
    """Run all, and return the exit status."""
    plans = {
        "SIGTERM": Plan(ends=5, by_kill=False),
        "SIGKILL": Plan(ends=5, by_kill=True),
        "SIGKILL, and away": Plan(ends=1, by_kill=True, stays_away=True),
    }
    violations = 0
    with tempfile.TemporaryDirectory() as folder:
        async with counted_gateway(Path(folder)) as gateway:
            for number, (name, plan) in enumerate(plans.items()):
                done = await end_envoy(gateway, plan, first=10_000 + number * 100_000)
                print(f"== {name}, {plan.ends} times\n{done}")
                violations += len(done.audit.violations)
    return bool(violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
