"""1,000 concurrent requests of one key whose whole quota is worth 10 of them, 1, a half and none.

The backend takes a second. Each caller tries three times, as OpenAI's SDK does.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from load.asks import costly
from load.calls import Outcome, calling
from load.gateway import CountedGateway, counted_gateway

WORST_TOKENS = 100
WORST_NANO = WORST_TOKENS * 1_000_000
"""What each request holds."""


@dataclass(frozen=True, slots=True)
class Burst:
    """What came of one: how many callers ended in which way, all refusals of
    all tries, how many the backend answered, and what the key spent."""

    limit_nano: int
    ends: Counter[str]
    refusals: Counter[str]
    answered: int
    rows: int
    spent_nano: int
    cost_nano: int

    @property
    def violations(self) -> list[str]:
        """What must not be."""
        most_nano = self.limit_nano + WORST_NANO if self.limit_nano else 0
        return [
            text
            for text, wrong in {
                f"spent {self.spent_nano} nano of {self.limit_nano}": self.spent_nano > most_nano,
                f"{self.answered} answers, {self.rows} rows": self.answered != self.rows,
                f"spent {self.spent_nano} nano, {self.answered} answers": self.spent_nano
                != self.answered * self.cost_nano,
                f"answers that none gave: {self.ends}": self.ends["admitted"] != self.answered,
                f"other ends: {self.ends}": self.ends.keys() - {"admitted", "held", "spent"},
                "nobody got through": self.limit_nano > 0 and not self.answered,
            }.items()
            if wrong
        ]

    def __str__(self) -> str:
        """All of it in one line."""
        return (
            f"limit {self.limit_nano / 1e9:.3f}: {self.ends['admitted']} admitted, {self.ends['held']} refused while"
            f" others held the rest, {self.ends['spent']} refused as spent; spent {self.spent_nano / 1e9:.3f},"
            f" {self.rows} rows; all refusals: {dict(self.refusals)}"
        )


async def burst(
    gateway: CountedGateway, *, worth: float, callers: int, first: int, output: int = WORST_TOKENS, delay_ms: int = 1000
) -> Burst:
    """Send that many requests at once with a new key whose quota is `worth` that many of them."""
    limit_nano = int(worth * WORST_NANO)
    key = await gateway.new_key(quota={"kind": "total", "limit": f"{limit_nano / 10**9:.9f}"})
    asks = list(islice(costly(first=first, output=output, limit=WORST_TOKENS, delay_ms=delay_ms), callers))
    async with calling(gateway.url, secret=key["secret"], connections=callers) as clients:
        outcomes = await asyncio.gather(*(clients.insist(ask, retries=2) for ask in asks))
    answered = sum(each.number in range(first, first + callers) for each in gateway.served())
    rows = await gateway.until_settled(key, answered)
    ends = Counter(map(_end, outcomes))
    spent_nano = await gateway.used_nano(key)
    return Burst(limit_nano, ends, clients.refusals, answered, len(rows), spent_nano, output * 1_000_000)


def _end(outcome: Outcome) -> str:
    if outcome.status == 200:
        return "admitted"
    known = {"rate_limit_exceeded": "held", "insufficient_quota": "spent"}
    return known.get(outcome.code or "", f"{outcome.status} {outcome.code}")


async def main() -> int:
    """Run all, and return the exit status."""
    violations = []
    with tempfile.TemporaryDirectory() as folder:
        async with counted_gateway(Path(folder)) as gateway:
            cases = [
                (10.0, WORST_TOKENS),
                (10.0, WORST_TOKENS // 2),
                (1.0, WORST_TOKENS),
                (0.5, WORST_TOKENS),
                (0.0, 1),
            ]
            for number, (worth, output) in enumerate(cases, 1):
                done = await burst(gateway, worth=worth, callers=1000, first=number * 10_000, output=output)
                print(f"1,000 at once, worth {worth:g}, each costs {output}% of what it holds: {done}")
                violations += done.violations
    print("\n".join(f"VIOLATION: {each}" for each in violations) or "the bound held")
    return bool(violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
