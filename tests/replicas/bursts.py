"""600 concurrent requests, spread over three replicas, with one key that is worth ten of them at their dearest.

Amid them one replica is killed, or loses the store, or is stopped beyond its lease. Each request costs half of what it
holds. Then the key is used up, one request after another at each replica: what no request holds must be there to be spent.
And the same with keys that are worth one request, and half of one, of which each costs what it holds.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from e2e.conftest import until
from load.books import nano
from load.calls import Ask, Outcome, calling

from replicas.cluster import CLOCKS_OFF_S, Cluster, cluster_in, new_number
from replicas.faults import FAULTS, killed

WORST, HALF = 100, 50
"""What a request holds, and half of it, in tokens."""

_TOKEN_NANO = 1_000_000
_DELAY_MS = 300
_SDK_TRIES, _STUBBORN_TRIES, _PAUSE_S = 3, 80, 0.5
_USE_UP_S = 60.0
_KINDS = {"rate_limit_exceeded": "held", "insufficient_quota": "spent", "service_unavailable": "away"}


@dataclass(slots=True, kw_only=True)
class Burst:
    """What came of one with a key that was worth so many requests at their dearest, of which each made `output` tokens: how
    callers ended, all refusals of all tries, and what the backend and the ledger know."""

    worth: float
    output: int
    ends: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    afterwards: int = 0
    spent_nano: int = 0
    unsettled: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def limit_nano(self) -> int:
        """The key's limit."""
        return int(self.worth * WORST * _TOKEN_NANO)

    @property
    def cost_nano(self) -> int:
        """What each request costs."""
        return self.output * _TOKEN_NANO

    def __str__(self) -> str:
        """All of it."""
        counted = (
            f"{self.ends['admitted']} admitted of {self.ends.total()} in {self.seconds:.1f} s, {dict(self.ends)}; all"
            f" refusals {dict(self.refusals)}; then {self.afterwards} more one by one. Backend: {self.answered} answers;"
            f" ledger: {self.spent_nano / 1e9:.3f} of {self.limit_nano / 1e9:.3f}, {self.unsettled} unsettled"
        )
        return "\n".join([counted, *(f"VIOLATION: {each}" for each in self.violations)])


async def burst(
    cluster: Cluster, fault: str, *, kind: str, callers: int, worth: float = 10, output: int = HALF
) -> Burst:
    """Send that many requests at once with a new key whose quota is of this kind, and let the fault befall one replica."""
    done = Burst(worth=worth, output=output)
    key = await cluster.new_key(quota={"kind": kind, "limit": f"{done.limit_nano / 10**9:.9f}"})
    asks = [_ask(output) for _ in range(callers)]
    started_s = time.monotonic()
    async with calling(*cluster.urls, secret=key["secret"], connections=callers) as clients:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(clients.insist(ask, retries=_tries(number) - 1, pause_s=_PAUSE_S))
                for number, ask in enumerate(asks)
            ]
            await until(lambda: _half_way(cluster, asks, done))
            await FAULTS[fault](cluster)
        outcomes = [task.result() for task in tasks]
    done.seconds = time.monotonic() - started_s
    done.ends, done.refusals = Counter(map(_end, outcomes)), clients.refusals
    if fault == killed.__name__:
        # A Check whose answer was lost leaves a hold until it is certain that its request didn't run.
        await cluster.restart_envoys()
    asks += await _use_up(cluster, key["secret"], done)
    await _audit(cluster, key, asks, done)
    return done


def _ask(output: int) -> Ask:
    return Ask(number=new_number(), output=output, limit=WORST, model="exact", delay_ms=_DELAY_MS)


def _tries(number: int) -> int:
    """Most try as OpenAI's SDK does; every tenth goes on until the key is spent, so that the fault finds it in use."""
    return _STUBBORN_TRIES if number % 10 == 0 else _SDK_TRIES


async def _half_way(cluster: Cluster, asks: list[Ask], done: Burst) -> bool:
    return 2 * len(cluster.answered(ask.number for ask in asks)) * done.cost_nano >= done.limit_nano


async def _use_up(cluster: Cluster, secret: str, done: Burst) -> list[Ask]:
    """Ask each replica in turn, one request at a time, until all of them have said that the key is spent."""
    asks: list[Ask] = []
    end_s, spent_at = time.monotonic() + _USE_UP_S, 0
    async with calling(*cluster.urls, secret=secret, connections=len(cluster.urls)) as clients:
        while spent_at < 2 * len(cluster.urls):
            asks.append(_ask(done.output))
            outcome = await clients.insist(asks[-1], retries=20, pause_s=_PAUSE_S)
            spent_at = spent_at + 1 if outcome.code == "insufficient_quota" else 0
            done.afterwards += outcome.status == 200
            if time.monotonic() > end_s:
                done.violations.append(f"after {_USE_UP_S} s the key is neither used up nor spent: {outcome}")
                break
    return asks


def _end(outcome: Outcome) -> str:
    return "admitted" if outcome.status == 200 else _KINDS.get(outcome.code or "", f"{outcome.status} {outcome.code}")


async def _audit(cluster: Cluster, key: dict[str, str], asks: list[Ask], done: Burst) -> None:
    answered = cluster.answered(ask.number for ask in asks)
    await cluster.until_settled(key, len(answered))
    await cluster.until_nothing_is_held()
    rows, done.unsettled = await cluster.rows(key), len(await cluster.unsettled(key))
    charged = [row["input_tokens"] for row in rows if nano(row["amount"])]
    done.answered, done.spent_nano = len(answered), await cluster.used_nano(key)
    wrong = {
        f"answered {Counter(answered) - Counter(charged)}, not charged": Counter(answered) - Counter(charged),
        f"charged {Counter(charged) - Counter(answered)}, not answered": Counter(charged) - Counter(answered),
        f"spent {done.spent_nano} nano in {len(answered)} answers": done.spent_nano != len(answered) * done.cost_nano,
        f"spent {done.spent_nano} nano of {done.limit_nano}": done.spent_nano >= done.limit_nano + done.cost_nano,
        f"spent only {done.spent_nano} nano of {done.limit_nano}": done.spent_nano < done.limit_nano,
        f"answers that none gave: {done.ends}": done.ends["admitted"] + done.afterwards != len(answered),
        f"other ends: {done.ends}": done.ends.keys() - {"admitted", *_KINDS.values()},
        f"{done.unsettled} unsettled": done.unsettled,
    }
    done.violations += [text for text, is_wrong in wrong.items() if is_wrong]


async def main() -> int:
    """Run all, and return the exit status."""
    violations = 0
    with tempfile.TemporaryDirectory() as folder:
        async with cluster_in(Path(folder), 3, clocks_off_s=CLOCKS_OFF_S) as cluster:
            for worth in (10, 1, 0.5):
                done = await burst(cluster, "nothing", kind="total", callers=600, worth=worth, output=WORST)
                print(f"worth {worth}, each costs what it holds: {done}", flush=True)
                violations += len(done.violations)
    for clocks_off_s in ((), CLOCKS_OFF_S):
        with tempfile.TemporaryDirectory() as folder:
            async with cluster_in(Path(folder), 3, clocks_off_s=clocks_off_s) as cluster:
                for fault in FAULTS:
                    for kind in ("monthly", "total"):
                        done = await burst(cluster, fault, kind=kind, callers=600)
                        print(f"clocks off by {clocks_off_s or 0} s, {kind}, one replica {fault}: {done}", flush=True)
                        violations += len(done.violations)
    return bool(violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
