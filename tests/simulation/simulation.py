"""The simulation: one run of Keytoll and of what surrounds it, of which every step comes from a seed.

At each step something is drawn: a request comes, one ends, a line is written or lost, a message of the other log comes,
a call of the store is made or its result told, the clock moves or is set, a key is edited, Keytoll dies. Then whatever
can go on by itself does, and the model judges what came of it.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import structlog
from changes import OPERATOR
from told import named

from keytoll.admission.cache import MISS
from keytoll.core.decision import Rules
from keytoll.core.ledger import Charge
from keytoll.core.months import Calendar
from keytoll.core.offer import Offers
from keytoll.core.quota import Quota, QuotaKind
from keytoll.envoy.messages.access_log_pb2 import HttpAccessLogEntry
from keytoll.management import KeyChanges
from keytoll.metrics import Metrics
from keytoll.store.base import Store, StoredKey, StoreUnavailable
from simulation import wire
from simulation.envoy import JournalWriter
from simulation.gates import Gates, Waiting
from simulation.instance import LONGEST_S, Keytoll, Surroundings, end_all
from simulation.ledger import Ledger
from simulation.loop import SteppedLoop
from simulation.model import Account, Asked, Limit, Model, Outcome, Served, require
from simulation.places import File, Place
from simulation.scenery import (
    US,
    SimulatedKey,
    draw_asked,
    draw_catalog,
    draw_limit,
    draw_outcome,
    draw_start,
    key_pool,
)

STEPS = 4000
KEYS = 250
_HOT_KEYS = 10
_FLUSH_US = 3_100_000
PRICE_NAMES = ("input", "output", "cached_input", "cache_write", "audio_input", "audio_output", "request")
"""In the order that Check tells them."""

_ANSWER_S = 10.0
_OFTEN = 8
_TRACE = 25


class SimulationFailed(AssertionError):
    """A run found something. The message names the seed and the step, and what led to it."""


@dataclass
class Report:
    """What a run did."""

    seed: int
    steps: int = 0
    decisions: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    fingerprint: int = 0

    def __str__(self) -> str:
        answers = ", ".join(f"{count} {word}" for word, count in sorted(self.answers.items()))
        rows = ", ".join(f"{count} {kind}" for kind, count in sorted(self.rows.items()))
        return (
            f"seed {self.seed}: {self.steps} steps, {self.decisions} decisions ({answers}), rows: {rows}; "
            f"{self.crashes} crashes, {self.seconds:.2f} s"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """What a Check asks."""

    key: SimulatedKey
    model: str
    asked: Asked


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """An admitted request that runs at a backend, with what Check said of it."""

    decision: str
    ask: Ask
    served: Served
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """One entry of a log on its way: to the journal, or to ALS."""

    flight: Flight
    outcome: Outcome
    to_journal: bool
    anthropic: bool


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A task of Keytoll, and what to do when it has ended."""

    kind: str
    task: asyncio.Task[Any]
    then: Callable[[asyncio.Task[Any]], None]


def run(
    seed: int, folder: Path, *, steps: int = STEPS, often: Sequence[str] = (), place: Place | None = None
) -> Report:
    """Run one seed in an empty folder; the actions in `often` come more often. Raises SimulationFailed.

    The ledger is kept in the `place`, which is empty, by default in a file of the folder.
    """
    place = place or File(folder / "keytoll.db")
    loop = SteppedLoop()
    with structlog.testing.capture_logs():
        try:
            return loop.run_until_complete(_run(seed, folder, loop, place, steps, often))
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()


async def _run(seed: int, folder: Path, loop: SteppedLoop, place: Place, steps: int, often: Sequence[str]) -> Report:
    started_s = time.perf_counter()
    for name in ("journal", "admissions"):
        (folder / name).mkdir()
    simulation = Simulation(seed, folder, loop, place, await place.open())
    try:
        await simulation.run(steps, often)
    except Exception as error:
        raise SimulationFailed(simulation.story(error)) from error
    finally:
        await simulation.close()
    simulation.report.seconds = time.perf_counter() - started_s
    return simulation.report


class Simulation:
    """The state of a run."""

    def __init__(self, seed: int, folder: Path, loop: SteppedLoop, place: Place, store: Store) -> None:
        self.report = Report(seed)
        self.random = Random(seed)
        self.folder, self.loop, self.place, self.store = folder, loop, place, store
        start = draw_start(self.random)
        self.now_us, self.zone = start.at_us, start.zone
        self.latest_us = self.now_us
        self.model = Model(start.zone)
        self.ledger = Ledger(place.connect())
        self.journal = JournalWriter(folder / "journal", self.random)
        self.source = self.random.choice(("journal", "journal", "als", "both"))
        self.keys: list[SimulatedKey] = []
        self.catalog: tuple[dict[str, Served], Offers] = draw_catalog(self.random, self.now_us)
        self.catalogs = [self.catalog]
        self.metrics = Metrics()
        self.envoy_epoch, self.envoy_started_us = 0, self.now_us
        self.epochs: dict[str, int] = {}
        self.placed_s: dict[str, float] = {}
        self.whole_us: dict[str, int] = {}
        self.sweep_us, self.looked_epoch = 0, -1
        self.stepped_back = self.behind = self.unsure = False
        self.unanswered: list[tuple[bytes, Flight]] = []
        self.flights: list[Flight] = []
        self.late: list[Log] = []
        self.messages: list[tuple[HttpAccessLogEntry, str]] = []
        self.broken: list[str] = []
        self.jobs: list[Job] = []
        self.over: deque[Job] = deque()
        self.edits: dict[str, Limit | None] = {}
        self.outage, self.answers_lost = False, 0.0
        self.touched: dict[str, None] = {}
        self.trace: deque[str] = deque(maxlen=_TRACE)
        self.keytoll = self._new_keytoll()

    # --- the run ---

    async def run(self, steps: int, often: Sequence[str] = ()) -> None:
        """Take the steps, then let everything come to its end, and check the whole."""
        self._add_keys()
        self._start()
        names = list(_ACTIONS)
        weights = [weight * (_OFTEN if name in often else 1) for name, (weight, _) in _ACTIONS.items()]
        for _ in range(steps):
            self.report.steps += 1
            name = self.random.choices(names, weights)[0]
            self.trace.append(name)
            await _ACTIONS[name][1](self)
            await self.settle_down()
            if self.report.steps % 50 == 0:
                self.check_all()
        await self.drain()
        self.check_end()

    def story(self, error: Exception) -> str:
        """Return what happened, for a failure's message."""
        report = self.report
        where = f"seed {report.seed}, step {report.steps}, source {self.source}, zone {self.zone}"
        return f"{where}: {error!r}; the last actions: {' '.join(self.trace)}"

    async def close(self) -> None:
        """End what still runs."""
        self.keytoll.crash()
        await end_all()
        await self.store.close()
        self.journal.close()
        self.ledger.close()

    async def settle_down(self) -> None:
        """Let go on what can, and have the model judge it."""
        await self.loop.idle()
        self._read_ledger()
        while self.over:
            job = self.over.popleft()
            self.jobs.remove(job)
            job.then(job.task)
        self._check_touched()

    def _new_keytoll(self) -> Keytoll:
        gates = Gates(self.store, self.loop)
        gates.lose_answer = lambda: self.random.random() < self.answers_lost
        return Keytoll(
            Surroundings(
                gates=gates,
                folder=self.folder,
                rules=Rules(Calendar(self.zone), "CNY", self.catalog[1]),
                clock=lambda: self.now_us,
                monotonic=self.loop.time,
                envoy_uptime_s=lambda: (self.now_us - self.envoy_started_us) // US,
                reopen_logs=lambda: self._whole(self.journal.reopen()),
                random=self.random,
                metrics=self.metrics,
                journal=self.source != "als",
            )
        )

    def _start(self) -> None:
        self.keytoll = self._new_keytoll()
        self.keytoll.gates.outage = self.outage
        self.stepped_back = False
        self._spawn("start", self.keytoll.start(), self._started)

    def _started(self, task: asyncio.Task[Any]) -> None:
        if not _succeeded(task):  # it ends, and is started again
            self.keytoll.crash()
            self._start()

    def _spawn(self, kind: str, work: Awaitable[Any], then: Callable[[asyncio.Task[Any]], None]) -> None:
        async def waited() -> Any:
            return await work

        coroutine = work if asyncio.iscoroutine(work) else waited()
        job = Job(kind, self.loop.create_task(coroutine), then)
        self.jobs.append(job)
        job.task.add_done_callback(lambda _: self.over.append(job))

    def _running(self, kind: str) -> bool:
        return any(job.kind == kind for job in self.jobs)

    def _add_keys(self) -> None:
        pool = key_pool(2000)
        first = self.random.randrange(len(pool) - KEYS)
        self.keys = list(pool[first : first + KEYS])
        given = []
        for key in self.keys:
            expires_at_us = self.now_us + self.random.randrange(3600) * US if self.random.random() < 0.05 else None
            limit = draw_limit(self.random)
            self.model.accounts[key.id] = Account(key.owner, [limit], expires_at_us)
            given.append((key, limit, expires_at_us))
        self.ledger.add_keys(given)

    # --- Checks ---

    async def ask(self) -> None:
        """A request comes."""
        if not self.keytoll.ready:
            return
        ask = self._draw_ask()
        cached = self.keytoll.cache.find(ask.key.digest) is not MISS
        answer = self.keytoll.check(self._request(ask))
        if isinstance(answer, bytes):
            self._answered(ask, answer, at_once=True)
            return
        self._spawn("check", answer, lambda task: self._check_ended(ask, task))
        if cached:  # so it waits, since others hold the rest
            self._expect(ask, "held")

    async def give_up_check(self) -> None:
        """Envoy gives up a Check: it timed out, or its caller left."""
        pending = [job for job in self.jobs if job.kind == "check" and not job.task.done()]
        if pending:
            self.random.choice(pending).task.cancel()

    async def answer(self) -> None:
        """Envoy gets an answer, or the answer reaches nobody."""
        if not self.unanswered or not self.keytoll.ready:
            return
        answer, flight = self.unanswered.pop(self.random.randrange(len(self.unanswered)))
        soon = self.loop.now_s - self.placed_s[flight.decision] < _ANSWER_S
        if soon and self.random.random() < 0.3:
            self.keytoll.check.void(answer)
            self.model.let_go(flight.decision, sweeping=self._running("sweep"))
            self.touched[flight.ask.key.id] = None
        else:
            self.flights.append(flight)

    def _draw_ask(self) -> Ask:
        keys = self.keys[:_HOT_KEYS] if self.random.random() < 0.8 else self.keys
        model = self.random.choices(("plain", "odd", "free", "seeing"), (6, 3, 1, 2))[0]
        return Ask(self.random.choice(keys), model, draw_asked(self.random))

    def _request(self, ask: Ask) -> bytes:
        return wire.check_request(ask.key.secret, ask.model, ask.asked, self.random.randbytes(8).hex())

    def _served(self, ask: Ask) -> Served:
        return next(served for served, offers in self.catalogs if offers is self.keytoll.rules.offers)[ask.model]

    def _check_ended(self, ask: Ask, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            self._answered(ask, task.result(), at_once=False)

    def _answered(self, ask: Ask, answer: bytes, *, at_once: bool) -> None:
        word, metadata = wire.check_answer(answer)
        self.report.answers[word] += 1
        if word == "allowed":
            self._admitted(ask, answer, metadata)
        elif word == "unavailable":
            require(not at_once or self.keytoll.obstacle is not None, "a known key was refused for an outage")
        elif at_once or word != "held":  # one that waited is told at last what was so at first
            self._expect(ask, word)

    def _expect(self, ask: Ask, word: str) -> None:
        expected = self.model.verdicts(ask.key.id, ask.asked, self._served(ask), self.now_us)
        require(word in expected, f"{ask} was answered {word}, and should be {expected}")

    def _admitted(self, ask: Ask, answer: bytes, metadata: dict[str, Any]) -> None:
        require(self.keytoll.obstacle is None, "admitted what can't be recorded")
        flight = Flight(metadata["decision_id"], ask, self._served(ask), metadata)
        self._admit(flight)
        if self.random.random() < 0.15:
            self.unanswered.append((answer, flight))
        else:
            self.flights.append(flight)

    def _admit(self, flight: Flight) -> None:
        told, decision = named(flight.metadata), flight.decision
        hold = told["hold_nano"]
        self.model.admit(
            decision,
            key=flight.ask.key.id,
            asked=flight.ask.asked,
            served=flight.served,
            now_us=self.now_us,
            told={
                "owner": told["owner"],
                "month": told["month"],
                "hold": None if hold == "unbounded" else int(hold),
                "at_us": int(told["admitted_at_us"]),
                "rates": tuple(map(int, told["rates"].split(" "))),
                "price": dict(zip(PRICE_NAMES, map(int, told["prices"].split(" ")), strict=True)),
            },
        )
        self.report.decisions += 1
        self.report.fingerprint = hash((self.report.fingerprint, int(decision.replace("-", ""), 16)))
        self.epochs[decision], self.placed_s[decision] = self.envoy_epoch, self.loop.now_s
        self.touched[flight.ask.key.id] = None

    # --- requests that end, and what the logs say of them ---

    async def finish(self) -> None:
        """A request ends. Its entry is told once, twice, differently, late or never."""
        if self.flights:
            self._finish(self.flights.pop(self.random.randrange(len(self.flights))))

    def _finish(self, flight: Flight) -> None:
        outcome = draw_outcome(self.random, flight.ask.asked, flight.served)
        if self.random.random() < 0.04:
            return  # lost
        outcomes = [outcome] * self.random.choices((1, 2, 3), (85, 12, 3))[0]
        if self.random.random() < 0.03:
            outcomes.append(replace(outcome, attempts=outcome.attempts + 1))
        versions = self.model.decisions[flight.decision].versions
        versions.extend(version for number, version in enumerate(outcomes) if version not in outcomes[:number])
        anthropic = outcome.tokens is not None and not (outcome.tokens["audio_input"] or outcome.tokens["audio_output"])
        anthropic = anthropic and self.random.random() < 0.3
        for version in outcomes:
            to_journal = self.source == "journal" or (self.source == "both" and self.random.random() < 0.5)
            log = Log(flight, version, to_journal, anthropic)
            if self.random.random() < 0.1:
                self.late.append(log)
            else:
                self._log(log)

    def _log(self, log: Log) -> None:
        usage, metadata = wire.reported(log.outcome, anthropic=log.anthropic), log.flight.metadata
        if log.to_journal:
            self.journal.append(wire.journal_line(metadata, log.outcome, usage), log.flight.decision)
        else:
            self.messages.append((wire.als_entry(metadata, log.outcome, usage), log.flight.decision))

    async def log_late(self) -> None:
        """An entry comes after all."""
        if self.late:
            self._log(self.late.pop(self.random.randrange(len(self.late))))

    async def log_garbage(self) -> None:
        """The journal gets a line that is none, or one of a request that only began."""
        line = self.random.choice((b"garbage\n", b'{"type": "DownstreamStart"}\n', b"\n", b'{"v":1,"type":\n'))
        self.journal.append(line, None)

    async def break_stream(self) -> None:
        """A stream of the gRPC access log breaks while its message is being settled."""
        running = [job for job in self.jobs if job.kind == "als" and not job.task.done()]
        if running:
            self.random.choice(running).task.cancel()

    async def flush(self) -> None:
        """Envoy writes its buffer, or part of it."""
        self._whole(self.journal.flush(wholly=self.random.random() < 0.6))

    def _whole(self, decisions: list[str]) -> None:
        for decision in decisions:
            self.model.decisions[decision].logged |= self.source != "als"
            self.whole_us.setdefault(decision, self.now_us)

    async def read_journal(self) -> None:
        """The follower reads on."""
        if self.keytoll.ready and self.source != "als" and not self._running("read"):
            self._spawn("read", self.keytoll.follower.read_once(), _expect_outage)

    async def send_messages(self) -> None:
        """Envoy sends some entries by gRPC, in any order."""
        if not self.keytoll.ready or not self.messages:
            return
        self.random.shuffle(self.messages)
        count = self.random.randint(1, 6)
        sent, self.messages = self.messages[:count], self.messages[count:]
        message = wire.als_message([entry for entry, _ in sent])
        self._spawn("als", self.keytoll.als(message), lambda task: self._sent([id_ for _, id_ in sent], task))

    def _sent(self, decisions: list[str], task: asyncio.Task[Any]) -> None:
        """What a stream that broke had sent is settled all the same, unless Keytoll dies before."""
        if task.cancelled():
            self.broken.extend(decisions)
            return
        task.result()
        self._logged(decisions)

    def _logged(self, decisions: Sequence[str]) -> None:
        for decision in decisions:
            self.model.decisions[decision].logged = True

    async def rotate(self) -> None:
        """The journal is rotated, if it is due, and what is settled of it is removed."""
        if self.keytoll.ready and self.source != "als" and not self._running("rotate"):
            self._spawn("rotate", self.keytoll.rotation.step(), _expect_outage)

    async def kill_envoy(self) -> None:
        """Envoy dies: what it ran and what it had not written is lost. A new one starts at once."""
        self._whole(self.journal.die())
        self.flights.clear()
        self.unanswered.clear()
        self.envoy_epoch, self.envoy_started_us = self.envoy_epoch + 1, self.now_us
        self.behind = self.unsure = False
        self._pass(2.0)  # its start is known to the second only

    # --- Keytoll within ---

    async def open_gate(self) -> None:
        """A call of the store is made, or its result told."""
        gates = self.keytoll.gates
        if gates.waiting:
            self._open(gates.waiting[self.random.randrange(len(gates.waiting))])

    def _open(self, waiting: Waiting) -> None:
        if waiting.method == "post" and waiting.made:
            batch = waiting.arguments[0]
            self.model.hear(_decisions(batch.charges), _decisions(batch.unsettled))
            self.touched |= dict.fromkeys(row.entry.key_id for row in (*batch.charges, *batch.unsettled))
        self.keytoll.gates.open(waiting)

    async def sweep(self) -> None:
        """The loss detector looks."""
        if self.keytoll.ready and not self._running("sweep"):
            self.sweep_us = self.now_us
            if self.now_us >= self.envoy_started_us:
                self.looked_epoch = self.envoy_epoch
            self._spawn("sweep", self.keytoll.sweep(), _expect_success)

    async def change_outage(self) -> None:
        """The store goes away or comes back; or the answers of some of its calls get lost."""
        self.outage = self.random.random() < 0.2
        self.answers_lost = self.random.choice((0.0, 0.0, 0.1))
        self.keytoll.gates.outage = self.outage

    async def change_obstacle(self) -> None:
        """Requests can't be recorded for a while."""
        self.keytoll.obstacle = "the disk is full" if self.random.random() < 0.2 else None

    async def crash(self) -> None:
        """Keytoll dies, perhaps amid a Check whose answer reaches nobody, and starts again."""
        self.report.crashes += 1
        self.unsure |= self.behind
        self.looked_epoch = -1
        cut = self._last_words() if self.keytoll.ready and self.random.random() < 0.6 else None
        self.keytoll.crash()
        await end_all()
        await self.loop.idle()
        self.jobs.clear()
        self.over.clear()
        self.broken.clear()
        if cut is not None:
            cut()
        self._read_ledger()
        for key_id in list(self.edits):
            self._edit_over(key_id)
        self.flights.extend(flight for _, flight in self.unanswered)
        self.unanswered.clear()
        if self.random.random() < 0.1:
            await self.store.close()
            self.store = await self.place.open()
        self.model.restart()
        self.placed_s = dict.fromkeys(self.placed_s, self.loop.now_s)
        self._start()

    def _last_words(self) -> Callable[[], None] | None:
        """Begin a Check that will not be answered; return what the crash does to the file and to the model."""
        ask = self._draw_ask()
        answer = self.keytoll.check(self._request(ask))
        if not isinstance(answer, bytes):
            if isinstance(answer, Coroutine):
                answer.close()
            return None
        word, metadata = wire.check_answer(answer)
        if word != "allowed":
            return None
        flight = Flight(metadata["decision_id"], ask, self._served(ask), metadata)
        self._admit(flight)
        undo, decision = self.model.unmake, flight.decision
        if self.random.random() < 0.3:
            self.keytoll.check.void(answer)
            self.model.let_go(decision, sweeping=self._running("sweep"))
            undo = self.model.hold_again
        return lambda: undo(decision) if self._cut_admissions() else None

    def _cut_admissions(self) -> bool:
        """Leave out some of the last line that was written; return whether that makes it unreadable."""
        path = max((self.folder / "admissions").iterdir())
        whole = path.read_bytes()
        data = whole.rstrip(b"\0")
        line_bytes = len(data) - (data.rstrip(b"\n").rfind(b"\n") + 1)
        lost_bytes = self.random.choice((0, 1, 2, self.random.randint(0, line_bytes), line_bytes))
        path.write_bytes(data[: len(data) - lost_bytes].ljust(len(whole), b"\0"))
        return lost_bytes >= 2  # all but the end of the line is enough

    # --- time ---

    async def pass_time(self) -> None:
        """Time goes on."""
        self._pass(self.random.choice((0.01, 0.05, 0.5, 2.0, 5.0, 60.0)))

    async def pass_long(self) -> None:
        """So much time goes on that whatever runs is over."""
        self._pass(LONGEST_S + self.random.randrange(1, 100))

    def _pass(self, seconds: float) -> None:
        self.loop.now_s += seconds
        self._set_clock(self.now_us + int(seconds * US))

    async def set_clock(self) -> None:
        """The wall clock is set, ahead or back."""
        delta_s = self.random.choice((1, 30, 300, 3600, 7200)) * self.random.choice((-1, 1))
        self._set_clock(self.now_us + delta_s * US + self.random.randrange(US))

    def _set_clock(self, now_us: int) -> None:
        if now_us < self.now_us:
            self.stepped_back = self.behind = True
            self.unsure |= self.looked_epoch < self.envoy_epoch
        self.now_us = now_us

    # --- people ---

    async def edit(self) -> None:
        """Somebody edits a key's quota."""
        key = self._draw_unedited()
        if key is None:
            return
        limit = draw_limit(self.random)
        self.edits[key.id] = limit
        self.model.begin_edit(key.id, limit)
        changes = KeyChanges(quota=Quota(QuotaKind(limit.kind), limit.nano))
        self._spawn(
            "edit",
            self.keytoll.management.keys.edit(OPERATOR, key.id, changes),
            lambda task: self._edited(key.id, task),
        )

    async def delete(self) -> None:
        """Somebody deletes a key."""
        key = self._draw_unedited()
        if key is None:
            return
        self.edits[key.id] = None
        self.model.accounts[key.id].maybe_deleted = True
        self._spawn(
            "edit", self.keytoll.management.keys.delete(OPERATOR, key.id), lambda task: self._edited(key.id, task)
        )

    def _draw_unedited(self) -> SimulatedKey | None:
        key = self.random.choice(self.keys[:_HOT_KEYS] if self.random.random() < 0.7 else self.keys)
        free = self.keytoll.ready and key.id not in self.edits and not self.model.accounts[key.id].deleted
        return key if free else None

    def _edited(self, key_id: str, task: asyncio.Task[Any]) -> None:
        wanted = self.edits[key_id]
        self._edit_over(key_id)
        if _succeeded(task):
            limit, deleted = self.ledger.key(key_id)
            require(deleted if wanted is None else limit == wanted, f"an edit of {key_id} had no effect")

    def _edit_over(self, key_id: str) -> None:
        del self.edits[key_id]
        limit, deleted = self.ledger.key(key_id)
        self.model.end_edit(key_id, limit, deleted=deleted)
        if deleted and key_id in {key.id for key in self.keys[:_HOT_KEYS]}:
            self.random.shuffle(self.keys)  # others are asked for from now on

    async def create(self) -> None:
        """Somebody creates a key."""
        if not self.keytoll.ready:
            return
        limit, name = draw_limit(self.random), self.random.randbytes(8).hex()
        quota = Quota(QuotaKind(limit.kind), limit.nano)
        work = self.keytoll.management.keys.create(
            OPERATOR, owner="users/new", name=name, quota=quota, expires_at_us=None
        )
        self._spawn("create", work, lambda task: self._created(limit, task))

    def _created(self, limit: Limit, task: asyncio.Task[Any]) -> None:
        if not _succeeded(task):
            return  # nobody was told its secret
        stored, secret = task.result()
        require(isinstance(stored, StoredKey), "a new key is returned")
        key = SimulatedKey(stored.key.id, stored.key.owner, secret, stored.key.digest)
        self.model.accounts[key.id] = Account(key.owner, [limit])
        self.keys.insert(self.random.randrange(_HOT_KEYS), key)

    async def edit_catalog(self) -> None:
        """The operator edits the catalog."""
        if self.keytoll.ready and not self._running("catalog"):
            self.catalog = draw_catalog(self.random, self.now_us)
            self.catalogs.append(self.catalog)
            self._spawn("catalog", self.keytoll.take_catalog(self.catalog[1]), _expect_outage)

    # --- checks ---

    def _read_ledger(self) -> None:
        rows = self.ledger.new_rows()
        for row in rows:
            self.model.post(row)
            self.report.rows[row.kind] += 1
            self.touched[row.key] = None
            if row.kind == "unsettled":
                self._check_lost(row.decision)
        for key_id, owner in dict.fromkeys((row.key, row.owner) for row in rows):
            self._check_totals(key_id, owner)

    def _check_lost(self, decision: str) -> None:
        """A decision is given up only if it must be over, and not if its line stands in the journal.

        Which requests an Envoy that is gone took with it is told by the wall clock, when Keytoll first hears of it. So a
        clock that was set back since, before Keytoll looked or was started anew, leaves it unsure.
        """
        over = (
            self.unsure
            or self.loop.now_s - self.placed_s[decision] > LONGEST_S
            or self.epochs[decision] < self.envoy_epoch
        )
        require(over, f"{decision} was given up while it may run")
        if not self.stepped_back and self.source == "journal":
            in_time = self.whole_us.get(decision, self.sweep_us) >= self.sweep_us - _FLUSH_US
            require(in_time, f"{decision} was given up while its entry stood in the journal")

    def _check_totals(self, key_id: str, owner: str) -> None:
        account = self.model.accounts[key_id]
        months = account.spent_nano
        expected = {**months, "": account.spent_in("")} if months else {}
        require(self.ledger.totals(key_id) == expected, f"{key_id} has {self.ledger.totals(key_id)}, not {expected}")
        owners = {month: nano for (name, month), nano in self.model.owners_nano.items() if name == owner}
        require(self.ledger.totals(owner) == owners, f"{owner} has {self.ledger.totals(owner)}, not {owners}")

    def _check_touched(self) -> None:
        if self.keytoll.ready:
            digests = {key.id: key.digest for key in self.keys if key.id in self.touched}
            for key_id in self.touched:
                self._check_holds(key_id)
                self._check_cache(key_id, digests[key_id])
        self.touched.clear()

    def _check_holds(self, key_id: str) -> None:
        held = self.keytoll.book.of(key_id)
        found = {month: (each.count, each.amount_nano, each.unbounded) for month, each in held.by_month}
        expected = self.model.held_now(key_id)
        require(found == expected, f"{key_id} holds {found}, not {expected}")
        sums = tuple(map(sum, zip(*found.values(), strict=True))) or (0, 0, 0)
        in_all = (held.in_all.count, held.in_all.amount_nano, held.in_all.unbounded)
        require(in_all == sums and min(sums) >= 0, f"{key_id} holds {in_all} in all, not {sums}")

    def _check_cache(self, key_id: str, digest: bytes) -> None:
        """What the cache knows is what the ledger has, once Keytoll has heard of it."""
        account, stored = self.model.accounts[key_id], self.keytoll.cache.find(digest)
        if not isinstance(stored, StoredKey) or account.unheard:
            return
        totals = stored.totals
        known = {month: nano for month, nano in totals.by_month.items() if month}
        require(totals.lifetime_nano == account.spent_in(""), f"{key_id} has other totals in the cache: {totals}")
        require(known == account.spent_nano, f"{key_id} has other months in the cache: {totals}")

    def check_all(self) -> None:
        """Check all that is held."""
        if self.keytoll.ready:
            under_way = {id_ for account in self.model.accounts.values() for id_ in account.held}
            require(set(self.keytoll.held()) == under_way, "what is held is not what is under way")

    def check_end(self) -> None:
        """Check that everything was settled, to the last nano-unit, and that nothing is left over."""
        self.check_all()
        self._logged(self.broken)
        self.model.check_end()
        for key in self.keys:
            self._check_totals(key.id, key.owner)
        rows = sum(len(decision.rows) for decision in self.model.decisions.values())
        require(self.ledger.count("charges") == rows, "the ledger has rows that nobody knows")
        open_rows = sum(decision.rows == ["unsettled"] for decision in self.model.decisions.values())
        require(self.ledger.count("open_unsettled") == open_rows, "the list of unsettled decisions is wrong")
        require(self.ledger.worst_total() >= 0, "an amount is negative")
        require(not self.ledger.usage_differs(), "usage is not the sum of the charges")
        require(len(self.keytoll.book) == 0, "something is held in the end")
        require(len(list((self.folder / "admissions").iterdir())) == 1, "admissions are left over")

    # --- the end ---

    async def drain(self) -> None:
        """Let everything come to its end."""
        self.outage = self.keytoll.gates.outage = False
        self.answers_lost, self.keytoll.obstacle = 0.0, None
        await self._finish_jobs()
        for flight in (*self.flights, *(flight for _, flight in self.unanswered)):
            self._finish(flight)
        self.flights, self.unanswered = [], []
        await self._settle_logs()
        if self.random.random() < 0.5:
            await self.crash()
            await self._finish_jobs()
        self._pass(2 * LONGEST_S)
        for _ in range(4):
            self._pass(10.0)
            await self._settle_logs()
            await self.sweep()
            await self._finish_jobs()
        for log in self.late:
            self._log(log)
        self.late = []
        await self._settle_logs()

    async def _settle_logs(self) -> None:
        self._whole(self.journal.flush(wholly=True))
        while self.messages:
            await self.send_messages()
            await self._finish_jobs()
        for _ in range(4):  # one for each file that may have grown
            await self.read_journal()
            await self._finish_jobs()

    async def _finish_jobs(self) -> None:
        """Open every gate, and let time go on, until nothing is under way."""
        await self.settle_down()
        while self.jobs or self.keytoll.gates.waiting:
            if self.keytoll.gates.waiting:
                self._open(self.keytoll.gates.waiting[0])
            else:
                self._pass(1.0)
            await self.settle_down()


def _decisions(rows: Sequence[Charge]) -> list[str]:
    return [str(row.entry.decision_id) for row in rows]


def _succeeded(task: asyncio.Task[Any]) -> bool:
    """Return whether it returned something; raise what it raised, unless the store was away."""
    try:
        task.result()
    except StoreUnavailable:
        return False
    return True


def _expect_success(task: asyncio.Task[Any]) -> None:
    task.result()


def _expect_outage(task: asyncio.Task[Any]) -> None:
    _succeeded(task)


_ACTIONS: dict[str, tuple[float, Callable[[Simulation], Awaitable[None]]]] = {
    "ask": (30, Simulation.ask),
    "answer": (4, Simulation.answer),
    "give-up-check": (0.5, Simulation.give_up_check),
    "finish": (18, Simulation.finish),
    "log-late": (1.5, Simulation.log_late),
    "log-garbage": (0.4, Simulation.log_garbage),
    "flush": (6, Simulation.flush),
    "read-journal": (8, Simulation.read_journal),
    "send-messages": (5, Simulation.send_messages),
    "break-stream": (0.5, Simulation.break_stream),
    "rotate": (2, Simulation.rotate),
    "kill-envoy": (0.15, Simulation.kill_envoy),
    "open-gate": (60, Simulation.open_gate),
    "sweep": (2, Simulation.sweep),
    "change-outage": (0.6, Simulation.change_outage),
    "change-obstacle": (0.3, Simulation.change_obstacle),
    "crash": (0.4, Simulation.crash),
    "pass-time": (8, Simulation.pass_time),
    "pass-long": (0.3, Simulation.pass_long),
    "set-clock": (0.5, Simulation.set_clock),
    "edit": (2, Simulation.edit),
    "delete": (0.3, Simulation.delete),
    "create": (0.4, Simulation.create),
    "edit-catalog": (0.4, Simulation.edit_catalog),
}
