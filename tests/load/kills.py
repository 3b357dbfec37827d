"""Keytoll killed with SIGKILL 20 times under load, and started again at once.

At least 200 requests a second, half of them streams, with a key that has no limit; and some more with a key whose small
quota runs dry meanwhile.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from load.asks import costly, mixed
from load.books import Audit, audit, check_totals
from load.calls import Ask, Callers, Load, Outcome, calling
from load.gateway import CountedGateway, counted_gateway

SEED = 20
SMALL_FIRST, SMALL_OUTPUT, SMALL_WORST = 5_000_000, 60, 100
SMALL_WORST_NANO = SMALL_WORST * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How often Keytoll is killed and how many answers come between, least and most; how many requests a second are
    sent; and what the small key's limit is."""

    kills: int
    answers_between: tuple[int, int]
    per_second: float
    small_per_second: float
    small_limit_nano: int


FULL = Plan(
    kills=20,
    answers_between=(100, 500),
    per_second=210,
    small_per_second=20,
    small_limit_nano=500 * SMALL_OUTPUT * 1_000_000,
)


@dataclass(slots=True)
class Survived:
    """The audit of the load, and what the small key spent."""

    audit: Audit
    sent: int
    seconds: float
    small_spent_nano: int
    small_answers: int
    small_ran_dry: bool
    holds_left: float

    def __str__(self) -> str:
        """All of it."""
        return (
            f"{self.sent} requests in {self.seconds:.1f} s: {self.sent / self.seconds:.0f} a second\n{self.audit}\n"
            f"the small key spent {self.small_spent_nano / 1e9:.3f} in {self.small_answers} answers, ran dry:"
            f" {self.small_ran_dry}; holds left at the end: {self.holds_left:.0f}"
        )


async def survive(gateway: CountedGateway, plan: Plan, *, first: int = 10_000) -> Survived:
    """Carry out the plan, then end what was lost with the killed ones by an orderly restart of Envoy."""
    random, key = Random(SEED), await gateway.new_key()
    limit = f"{plan.small_limit_nano / 10**9:.9f}"
    small_key = await gateway.new_key(quota={"kind": "total", "limit": limit})
    async with (
        calling(gateway.url, secret=key["secret"]) as callers,
        calling(gateway.url, secret=small_key["secret"]) as small,
    ):
        load = Load(callers, mixed(random, first=first), per_second=plan.per_second)
        small_load = Load(small, _small_asks(SMALL_FIRST, delay_ms=50), per_second=plan.small_per_second)
        async with load.running(), small_load.running():
            await _kill(gateway, load, plan, random)
        # A Check whose answer was lost with a killed Keytoll leaves a hold: Envoy never ran its request, which is
        # certain once that Envoy has ended.
        await gateway.restart_envoy()
        await gateway.until_told(key, load.outcomes)
        outcomes = small_load.outcomes + await _drain(small)
    evidence = await gateway.evidence(key, load.outcomes)
    found = audit(evidence)
    check_totals(found, "the key", await gateway.used_nano(key), evidence.rows)
    sent = len(load.outcomes) + len(small_load.outcomes)
    spent_nano = await _audit_small(gateway, small_key, plan, found)
    answers = sum(outcome.whole for outcome in outcomes)
    dry = any(outcome.code == "insufficient_quota" for outcome in outcomes)
    return Survived(found, sent, load.seconds, spent_nano, answers, dry, await gateway.metric("keytoll_holds"))


async def _kill(gateway: CountedGateway, load: Load, plan: Plan, random: Random) -> None:
    for number in range(plan.kills):
        await load.more(random.randint(*plan.answers_between))
        await gateway.stack.keytoll.kill()
        await gateway.stack.keytoll.launch()  # at once; that it is ready shows in the answers
        print(f"killed {number + 1} times; {len(load.outcomes)} requests have ended", flush=True)
    await load.more(plan.answers_between[0])


def _small_asks(first: int, *, delay_ms: int) -> Iterator[Ask]:
    return costly(first=first, output=SMALL_OUTPUT, limit=SMALL_WORST, delay_ms=delay_ms)


async def _drain(small: Callers) -> list[Outcome]:
    """Go on with the small key, one request after another, until it is spent."""
    outcomes: list[Outcome] = []
    for ask in islice(_small_asks(SMALL_FIRST + 1_000_000, delay_ms=0), 2000):
        outcomes.append(await small.insist(ask, retries=5))
        if outcomes[-1].code == "insufficient_quota":
            break
    return outcomes


async def _audit_small(gateway: CountedGateway, key: Mapping[str, Any], plan: Plan, found: Audit) -> int:
    served = [each.number for each in gateway.served() if each.number >= SMALL_FIRST]
    rows = await gateway.until_settled(key, len(served))
    charged = [row["input_tokens"] for row in rows if row.get("status") == 200]
    if sorted(charged) != sorted(served):
        found.violations.append(f"the small key: {len(served)} answers, {len(charged)} charges")
    spent_nano = await gateway.used_nano(key)
    check_totals(found, "the small key", spent_nano, rows)
    if spent_nano != len(served) * SMALL_OUTPUT * 1_000_000:
        found.violations.append(f"the small key: spent {spent_nano} nano in {len(served)} answers")
    if spent_nano > plan.small_limit_nano + SMALL_WORST_NANO:
        found.violations.append(f"the small key: spent {spent_nano} nano of {plan.small_limit_nano}")
    return spent_nano


async def main() -> int:
    """Run it, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        async with counted_gateway(Path(folder)) as gateway:
            done = await survive(gateway, FULL)
    print(done)
    return bool(done.audit.violations) or not done.small_ran_dry


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
