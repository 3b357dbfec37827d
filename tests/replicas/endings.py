"""Keys that end in use on three replicas: deleted, disabled, rotated, or their limit lowered below what is spent.

No request is admitted anywhere that was sent after the end was answered. Where a replica can't be reached, the answer waits
for its lease, or says until when it may still admit.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from e2e.conftest import until
from load.calls import CHAT_PATH, Ask
from posting import Caller, calling_by_hand

from keytoll.sockets import short_path
from replicas.cluster import CLOCKS_OFF_S, Cluster, cluster_in, new_number
from replicas.replica import Replica

KINDS = ("deleted", "disabled", "rotated", "limit lowered")
REFUSED = {"deleted": 401, "disabled": 401, "rotated": 401, "limit lowered": 429}
DEADLINE_S = 5.0
_SLACK_S = 1.5
"""What a busy machine may add to the deadline of an answer."""

_PAUSE_S = 0.01
_ANSWER_S = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request, by the clock that all processes share: to which replica it was sent and when, and what it got."""

    number: int
    replica: Replica
    sent_s: float
    status: int


@dataclass(frozen=True, slots=True)
class NotYet:
    """A replica that may still admit, until when at most."""

    replica: str
    until: datetime


@dataclass(slots=True)
class Ending:
    """A key that callers use until its end was answered, and after that. `ended_at` is when it was, on the right clock."""

    kind: str
    key: Mapping[str, Any]
    calls: list[Call] = field(default_factory=list)
    took_s: float = 0.0
    ended_s: float | None = None
    ended_at: datetime | None = None
    status: int = 0
    not_yet: Sequence[NotYet] = ()

    def end(self, replica: Replica) -> None:
        """End it by a replica, and note when that was answered. Blocks: for a thread of its own, which nothing delays."""
        method, path, change = _CHANGES[self.kind]
        with short_path(replica.private_dir / "operator.sock") as socket:
            transport = httpx.HTTPTransport(uds=socket)
            with httpx.Client(transport=transport, base_url="http://replica", timeout=_ANSWER_S) as operator:
                started_s = time.monotonic()
                answer = operator.request(method, f"/api/v1/keys/{self.key['id']}{path}", json=change)
                self.ended_s, self.ended_at = time.monotonic(), datetime.now(UTC)
        self.took_s, self.status = self.ended_s - started_s, answer.raise_for_status().status_code
        told = answer.json().get("not_yet", ()) if answer.content else ()
        self.not_yet = [NotYet(each["replica"], datetime.fromisoformat(each["until"])) for each in told]

    def sent_after(self, instant_s: float, replica: Replica | None = None) -> list[Call]:
        """Return the calls that were sent after an instant, to one replica or to any."""
        return [call for call in self.calls if call.sent_s >= instant_s and replica in (None, call.replica)]


_CHANGES: Mapping[str, tuple[str, str, Any]] = {
    "deleted": ("DELETE", "", None),
    "disabled": ("PATCH", "", {"disabled": True}),
    "rotated": ("POST", "/rotate", {}),
    "limit lowered": ("PATCH", "", {"quota": {"kind": "total", "limit": "0.001"}}),
}


@dataclass(slots=True)
class Ended:
    """What came of many ends: how long each kind took to be answered, and how many calls there were before and after."""

    took_s: dict[str, list[float]] = field(default_factory=dict)
    before: int = 0
    after: int = 0
    admitted_after: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """All of it."""
        calls = (
            f"{self.before} admitted before the ends ({self.before / self.seconds:.0f}/s), {self.after} requests sent after"
            f" them, of which {self.admitted_after} were admitted"
        )
        ends = [f"{kind}: {_spread(took_s)}" for kind, took_s in self.took_s.items()]
        return "\n".join([calls, *ends, *(f"VIOLATION: {each}" for each in self.violations)])


def _spread(took_s: Sequence[float]) -> str:
    p99_s = quantiles(took_s, n=100, method="inclusive")[98] if len(took_s) > 1 else took_s[0]
    p50, p99, most = (f"{seconds * 1000:.0f} ms" for seconds in (median(took_s), p99_s, max(took_s)))
    return f"{len(took_s)}, answered in p50 {p50}, p99 {p99}, at most {most}"


async def end_under_load(cluster: Cluster, *, keys_of_a_kind: int, callers_of_a_key: int) -> Ended:
    """End keys of all kinds one after another, by each replica in turn, while callers use each key at every replica."""
    endings = [await _begin(cluster, kind) for _ in range(keys_of_a_kind) for kind in KINDS]
    started_s = time.monotonic()
    async with AsyncExitStack() as stack:
        for ending in endings:
            await stack.enter_async_context(_in_use(cluster, ending, callers_of_a_replica=callers_of_a_key))
        for number, ending in enumerate(endings):
            await asyncio.to_thread(ending.end, cluster.replicas[number % len(cluster.replicas)])
        await until(lambda: _used_after(cluster, endings))
        seconds = time.monotonic() - started_s
    done = Ended(seconds=seconds)
    for ending in endings:
        done.took_s.setdefault(ending.kind, []).append(ending.took_s)
        _judge(ending, done)
        await _audit(cluster, ending, done)
    return done


def _judge(ending: Ending, done: Ended) -> None:
    assert ending.ended_s is not None
    later = ending.sent_after(ending.ended_s)
    done.after += len(later)
    done.before += sum(call.status == 200 for call in ending.calls) - (late := sum(c.status == 200 for c in later))
    done.admitted_after += late
    if ending.not_yet:
        done.violations.append(f"{ending.kind}: all replicas were there, and the answer tells of {ending.not_yet}")
    if {call.status for call in later} != {REFUSED[ending.kind]}:
        done.violations.append(f"{ending.kind}: requests that were sent later got {sorted({c.status for c in later})}")
    if strange := {call.status for call in ending.calls} - {200, REFUSED[ending.kind]}:
        done.violations.append(f"{ending.kind}: requests got {strange}")


async def _begin(cluster: Cluster, kind: str) -> Ending:
    quota = {"kind": "total", "limit": "1000"} if kind == "limit lowered" else {"kind": "unlimited"}
    return Ending(kind, await cluster.new_key(quota=quota))


@asynccontextmanager
async def _in_use(cluster: Cluster, ending: Ending, *, callers_of_a_replica: int) -> AsyncIterator[None]:
    """Have callers use the key at every replica as long as the context lasts; it begins when each had an answer."""
    stop, begun = asyncio.Event(), asyncio.Semaphore(0)
    callers = [(replica, number) for replica in cluster.replicas for number in range(callers_of_a_replica)]
    async with asyncio.TaskGroup() as group:
        try:
            for replica, _ in callers:
                group.create_task(_call(replica, ending, stop, begun))
            for _ in callers:
                await begun.acquire()
            yield
        finally:
            stop.set()


async def _call(replica: Replica, ending: Ending, stop: asyncio.Event, begun: asyncio.Semaphore) -> None:
    async with calling_by_hand(replica.ports.data, secret=ending.key["secret"], path=CHAT_PATH) as caller:
        while not stop.is_set():
            ending.calls.append(await _called(replica, caller))
            begun.release()
            await asyncio.sleep(_PAUSE_S)


async def _called(replica: Replica, caller: Caller) -> Call:
    ask = Ask(number=new_number(), output=1, limit=1, model="exact")
    sent_s = time.monotonic()
    return Call(ask.number, replica, sent_s, (await caller.post(ask.body)).status)


async def _used_after(cluster: Cluster, endings: Sequence[Ending]) -> bool:
    """Return whether each key was tried at each replica after its end."""
    return all(
        ending.ended_s is not None and ending.sent_after(ending.ended_s, replica)
        for ending in endings
        for replica in cluster.replicas
    )


async def _audit(cluster: Cluster, ending: Ending, done: Ended) -> None:
    """What was answered is charged, nothing else, and nothing that was admitted after the answer."""
    calls = {call.number: call for call in ending.calls}
    admitted = sorted(number for number, call in calls.items() if call.status == 200)
    rows = await cluster.until_settled(ending.key, len(admitted))
    if admitted != sorted(row["input_tokens"] for row in rows):
        done.violations.append(f"{ending.kind}: {len(admitted)} answers, and {len(rows)} rows")
    for row in rows:
        off = timedelta(seconds=calls[row["input_tokens"]].replica.place.clock_off_s)
        assert ending.ended_at is not None
        if not ending.not_yet and datetime.fromisoformat(row["admitted_at"]) - off > ending.ended_at:
            done.violations.append(f"{ending.kind}: admitted at {row['admitted_at']}, answered at {ending.ended_at}")


@dataclass(slots=True)
class Apart:
    """What came of an end while one replica was out of reach: how long after it that one last admitted, if it did."""

    ending: Ending
    last_admitted_s: float | None = None
    last_admitted_at: datetime | None = None
    refused_away: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """All of it."""
        told = ", ".join(f"{each.replica} until {each.until.isoformat()}" for each in self.ending.not_yet) or "nobody"
        last = "not at all" if self.last_admitted_s is None else f"last {self.last_admitted_s:+.2f} s from the answer"
        line = (
            f"{self.ending.kind}: answered {self.ending.status} after {self.ending.took_s:.2f} s, not yet ended at: {told};"
            f" the replica that was apart admitted {last}, and refused {self.refused_away} with 503"
        )
        return "\n".join([line, *(f"VIOLATION: {each}" for each in self.violations)])


_APART: Mapping[str, tuple[Callable[[Replica], None], Callable[[Replica], None]]] = {
    "cut off": (lambda replica: replica.link.cut_off(), lambda replica: replica.link.restore()),
    "silent": (lambda replica: replica.link.fall_silent(), lambda replica: replica.link.restore()),
    "frozen": (Replica.freeze, Replica.thaw),
}
WAYS = tuple(_APART)


async def end_while_apart(cluster: Cluster, kind: str, way: str, *, deadline_s: float, staleness_s: float) -> Apart:
    """End a key in use while the last replica is out of reach; then let that one come back, and use the key again."""
    ending, replica = await _begin(cluster, kind), cluster.replicas[-1]
    leave, come_back = _APART[way]
    done = Apart(ending)
    async with _in_use(cluster, ending, callers_of_a_replica=2):
        leave(replica)
        try:
            await asyncio.to_thread(ending.end, cluster.replicas[0])
            assert ending.ended_s is not None
            # A lease that was not renewed is over by then, and so is what a replica may admit by it.
            await asyncio.sleep(max(0.5, staleness_s - ending.took_s + 1))
        finally:
            come_back(replica)
        back_s = time.monotonic()
        await until(lambda: _is_back(ending, replica, back_s))
    _judge_apart(done, replica, deadline_s=deadline_s)
    ended = Ended()
    await _audit(cluster, ending, ended)
    done.violations += ended.violations
    return done


async def _is_back(ending: Ending, replica: Replica, back_s: float) -> bool:
    return any(call.status == REFUSED[ending.kind] for call in ending.sent_after(back_s, replica))


def _judge_apart(done: Apart, replica: Replica, *, deadline_s: float) -> None:
    ending = done.ending
    assert ending.ended_s is not None
    assert ending.ended_at is not None
    if ending.took_s > deadline_s + _SLACK_S:
        done.violations.append(f"answered only after {ending.took_s:.2f} s")
    admitted_s = [call.sent_s for call in ending.calls if call.status == 200 and call.replica is replica]
    if admitted_s:
        done.last_admitted_s = max(admitted_s) - ending.ended_s
        done.last_admitted_at = ending.ended_at + timedelta(seconds=done.last_admitted_s)
    done.refused_away = sum(call.status == 503 for call in ending.calls)
    until_at = max((each.until for each in ending.not_yet), default=ending.ended_at)
    for call in ending.sent_after(ending.ended_s):
        sent_at = ending.ended_at + timedelta(seconds=call.sent_s - ending.ended_s)
        if call.status == 200 and (call.replica is not replica or sent_at > until_at):
            done.violations.append(f"{call.replica.name} admitted at {sent_at}, ended until {until_at}")


async def main() -> int:
    """Run all, and return the exit status."""
    violations = 0
    with tempfile.TemporaryDirectory() as folder:
        async with cluster_in(Path(folder), 3, clocks_off_s=CLOCKS_OFF_S) as cluster:
            done = await end_under_load(cluster, keys_of_a_kind=25, callers_of_a_key=1)
            print(done, flush=True)
            violations += len(done.violations)
            for way in WAYS:
                for kind in KINDS:
                    apart = await end_while_apart(cluster, kind, way, deadline_s=DEADLINE_S, staleness_s=3)
                    print(f"{way}: {apart}", flush=True)
                    violations += len(apart.violations)
    with tempfile.TemporaryDirectory() as folder:
        async with cluster_in(Path(folder), 3, environment={"KEYTOLL_MAX_STALENESS_S": "30"}) as cluster:
            for kind in KINDS:
                apart = await end_while_apart(cluster, kind, "cut off", deadline_s=DEADLINE_S, staleness_s=30)
                print(f"cut off, with a staleness of 30 s: {apart}", flush=True)
                violations += len(apart.violations)
                violations += not apart.ending.not_yet
    return bool(violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
