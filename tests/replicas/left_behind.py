"""A replica that dies for good, with a part of a key's limit granted to it and requests of it under way.

What others may spend meanwhile, when its part comes back to them, and what its journal adds once it is found again.
"""

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from e2e.conftest import until
from load.books import nano
from load.calls import CHAT_PATH, Ask
from posting import Caller, calling_by_hand

from keytoll.settings import LOG_GRACE_S
from replicas.cluster import Cluster, cluster_in, new_number
from replicas.replica import Replica

MAX_STREAM_S = 1.0
LIMIT, OUTPUT = "2", 50
LIMIT_NANO, COST_NANO = nano(LIMIT), OUTPUT * 1_000_000
UNDER_WAY = 3
_GIVEN_UP_S = 3.0
_SWEPT_WITHIN_S = MAX_STREAM_S + LOG_GRACE_S + 30


@dataclass(slots=True)
class LeftBehind:
    """What the others spent until there was no more for them, at first and after the dead one's part came back; how long
    after its death that was; and what was spent in all once its journal was settled."""

    first_nano: int
    then_nano: int
    came_back_after_s: float
    at_last_nano: int

    def __str__(self) -> str:
        """All of it."""
        first, then, last, limit = (
            f"{each / 1e9:.3f}" for each in (self.first_nano, self.then_nano, self.at_last_nano, LIMIT_NANO)
        )
        return (
            f"the others spent {first} of {limit}, and {self.came_back_after_s:.0f} s after the death in all {then}; with"
            f" the {UNDER_WAY} requests under way at the death, which cost {COST_NANO / 1e9:.3f} each: {last}"
        )

    @property
    def violations(self) -> list[str]:
        """What must not be. What was under way goes beyond the limit: its part of it was given up."""
        wrong = {
            "others spent what was granted to the dead one": self.first_nano > LIMIT_NANO - UNDER_WAY * COST_NANO,
            "not all of its part came back": self.then_nano != LIMIT_NANO,
            "not what was under way, once": self.at_last_nano != LIMIT_NANO + UNDER_WAY * COST_NANO,
        }
        return [text for text, is_wrong in wrong.items() if is_wrong]


async def leave_behind(cluster: Cluster) -> LeftBehind:
    """Kill the last replica's Keytoll, use up the key at the first one, and start the last one again at the end."""
    key = await cluster.new_key(quota={"kind": "total", "limit": LIMIT})
    living, dead = cluster.replicas[0], cluster.replicas[-1]
    async with AsyncExitStack() as stack:
        caller, *others = [
            await stack.enter_async_context(calling_by_hand(port, secret=key["secret"], path=CHAT_PATH))
            for port in (living.ports.data, *(dead.ports.data for _ in range(UNDER_WAY)))
        ]
        under_way = [asyncio.create_task(_admits(other, delay_ms=2000)) for other in others]
        await until(lambda: _holds(dead))
        await dead.keytoll.kill()
        died_s = time.monotonic()
        first = await _use_up(caller)
        assert all([await each for each in under_way])
        while not await _admits(caller):
            assert time.monotonic() < died_s + _SWEPT_WITHIN_S, "its part never came back"
            await asyncio.sleep(0.5)
        came_back_after_s = time.monotonic() - died_s
        then = first + 1 + await _use_up(caller)
    await dead.keytoll.start()
    await cluster.until_settled(key, then + UNDER_WAY)
    return LeftBehind(first * COST_NANO, then * COST_NANO, came_back_after_s, await cluster.used_nano(key))


async def _holds(replica: Replica) -> bool:
    return await replica.metric("keytoll_holds") == UNDER_WAY


async def _use_up(caller: Caller) -> int:
    """Ask until nothing is admitted for some seconds; return how often something was."""
    admitted, last_s = 0, time.monotonic()
    while time.monotonic() < last_s + _GIVEN_UP_S:
        if await _admits(caller):
            admitted, last_s = admitted + 1, time.monotonic()
        else:
            await asyncio.sleep(0.1)
    return admitted


async def _admits(caller: Caller, *, delay_ms: int = 0) -> bool:
    ask = Ask(number=new_number(), output=OUTPUT, limit=OUTPUT, model="exact", delay_ms=delay_ms)
    return (await caller.post(ask.body)).status == 200


async def main() -> int:
    """Run it, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"KEYTOLL_MAX_STREAM_S": str(MAX_STREAM_S)}
        async with cluster_in(Path(folder), 2, environment=environment) as cluster:
            done = await leave_behind(cluster)
    print(done, *(f"VIOLATION: {each}" for each in done.violations), sep="\n")
    return bool(done.violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
