"""Allowances: what this replica may hold of each key, in memory, and how it gets more from the store or gives it back.

Check reads an allowance without waiting. Where it is too small, one ask at a time for each key and month tells the store
what those who wait need. What is not used for a while goes back, and what others ask for at once.

What the store tells of a grant comes with a version, and the newest one holds: answers may come in any order, and an
answer that was lost does no harm.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from keytoll.admission.cache import KeyCache
from keytoll.core.allowance import NOTHING_GRANTED, Allowance, Ask, Outcome
from keytoll.core.holds import KeyHolds, unused_nano
from keytoll.core.quota import Quota
from keytoll.core.worst_case import UNBOUNDED
from keytoll.metrics import Metrics
from keytoll.store.base import Granted, KeyMonth, Posted, StoreUnavailable
from keytoll.store.replicas import Answer, Lapsed, Member, ReplicaStore

_AGAIN_S = 0.05
"""How soon the store is asked again for what others hold, unless it says that something came back."""

_MOST_WAITING = 8
"""How many requests of a key wait for others to give something back; more are refused at once."""

_TICK_S = 1.0
_IDLE_TICKS = 10
_AT_ONCE = 500

_UNTOLD = Granted(0, -1)


@dataclass(slots=True)
class _Purse:
    """An allowance, and what is known of it: what the store told last, and how much of that is on its way back.

    `doubtful`: an answer was lost, so the store may have granted more than is known here.
    """

    told: Granted = _UNTOLD
    leaving_nano: int = 0
    whole: bool = False
    doubtful: bool = False
    used: bool = True
    idle_ticks: int = 0
    allowance: Allowance = NOTHING_GRANTED

    def take_over(self, granted: Granted) -> None:
        """Take over what the store told, unless something newer was told already."""
        if granted.version >= self.told.version:
            self.told = granted
        self._refresh()

    @property
    def is_idle(self) -> bool:
        """Whether nobody asked for it in the last ticks."""
        return self.idle_ticks >= _IDLE_TICKS

    def end_whole(self) -> None:
        """Note that others may have something of the remainder by now."""
        self.whole = False
        self._refresh()

    def left(self, nano: int, told: Granted | None) -> None:
        """Note that something has left, or, with None, that it may have: then it is not counted on, and found out."""
        self.leaving_nano -= nano
        if told is None:
            self.told = Granted(max(0, self.told.granted_nano - nano), self.told.version)
        self.doubtful = told is None
        self.take_over(self.told if told is None else told)

    def _refresh(self) -> None:
        self.allowance = Allowance(max(0, self.told.granted_nano - self.leaving_nano), self.whole)


class _Leaving(NamedTuple):
    """What is on its way back of an allowance."""

    of: KeyMonth
    purse: _Purse
    nano: int


@dataclass(slots=True)
class _Asking:
    """An ask that is about to be sent or under way, for all who wait for it."""

    quota: Quota
    least_nano: int | None
    wanted_nano: int = 0
    sent: bool = False
    task: "asyncio.Task[None]" = field(init=False)

    def add(self, worst_nano: int | None) -> None:
        if worst_nano is not UNBOUNDED:
            self.wanted_nano += worst_nano
            self.least_nano = worst_nano if self.least_nano is UNBOUNDED else min(self.least_nano, worst_nano)


@dataclass(slots=True)
class _Quiet:
    """That the store isn't asked for a key before an instant, and who waits until then."""

    until_s: float
    waiting: set["asyncio.Future[None]"] = field(default_factory=set)


class Allowances:
    """The allowances of one replica. Lives on one event loop.

    `member` is who the replica is by now, `held` what the requests under way of a key hold, `monotonic` gives seconds of
    a clock that never steps.
    """

    def __init__(
        self,
        store: ReplicaStore,
        *,
        member: Callable[[], Member],
        cache: KeyCache,
        held: Callable[[str], KeyHolds],
        monotonic: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._member = member
        self._cache = cache
        self._held = held
        self._monotonic = monotonic
        self._metrics = metrics
        self._purses: dict[tuple[str, str], _Purse] = {}
        self._months: set[str] = set()
        self._asking: dict[KeyMonth, _Asking] = {}
        self._quiet: dict[str, _Quiet] = {}
        self._background: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._purses)

    def of(self, key_id: str, month: str) -> Allowance:
        """Return what this replica may hold of a key in a month."""
        purse = self._purses.get((key_id, month))
        if purse is None:
            return NOTHING_GRANTED
        purse.used = True
        return purse.allowance

    async def more(self, quota: Quota, of: KeyMonth, worst_nano: int | None) -> bool:
        """Ask the store for what a request needs, or wait a moment for what others hold; then look again.

        False: enough others wait already. Raises StoreUnavailable.
        """
        quiet = self._quiet.get(of.key_id)
        if quiet is not None and quiet.until_s > self._monotonic():
            if len(quiet.waiting) >= _MOST_WAITING:
                return False
            await self._wait(quiet)
            return True
        asking = self._asking.get(of)
        if asking is None:
            asking = self._asking[of] = _Asking(quota, worst_nano)
            asking.task = asyncio.create_task(self._ask(of, asking))
            asking.task.add_done_callback(_retrieve)
        if not asking.sent:
            asking.add(worst_nano)
        await asyncio.shield(asking.task)
        return True

    def told(self, posted: Posted) -> None:
        """Take over what is left of grants after charges, and let those look again who wait."""
        for of, granted in posted.grants.items():
            if (purse := self._purses.get(of)) is not None:
                purse.take_over(granted)
            self.returned(of.key_id)

    def returned(self, key_id: str) -> None:
        """Let those look again who wait for something of a key."""
        if (quiet := self._quiet.pop(key_id, None)) is not None:
            for future in quiet.waiting:
                if not future.done():
                    future.set_result(None)

    def recalled(self, key_id: str) -> None:
        """Give back what isn't used of a key, since others ask for it; but not what is being asked for here."""
        leaving = [each for of in self._of_keys([key_id]) if of not in self._asking for each in self._leave(of)]
        if leaving:
            self._in_background(self._give_back(leaving, tell=True))

    async def changed(self, key_ids: Collection[str]) -> None:
        """Give back what isn't used of keys that were changed: it was granted by what they were before.

        Returns when nothing of them is granted here beyond what requests under way hold. Raises StoreUnavailable.
        """
        tasks = [asking.task for of, asking in self._asking.items() if of.key_id in key_ids]
        if tasks:
            await asyncio.wait(tasks)
        leaving = []
        for of in self._of_keys(key_ids):
            self._purses[of].end_whole()
            leaving += self._leave(of)
        if leaving:
            await self._give_back(leaving, tell=True)
        for key_id in key_ids:
            self.returned(key_id)

    def joined(self, grants: Mapping[KeyMonth, Granted]) -> None:
        """Forget all but what the store says that is granted, after joining anew."""
        self._purses.clear()
        for of, granted in grants.items():
            self._purse(of).take_over(granted)

    async def run(self) -> None:
        """Give back what is idle, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            with suppress(StoreUnavailable, Lapsed):
                await self.tick()

    async def tick(self) -> None:
        """Give back what was not used in the last ticks, and find out what is doubtful. Raises StoreUnavailable."""
        self._quiet = {key_id: quiet for key_id, quiet in self._quiet.items() if quiet.until_s > self._monotonic()}
        due: list[KeyMonth] = []
        for number, (key, purse) in enumerate(list(self._purses.items())):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # Checks come in between
            purse.idle_ticks = 0 if purse.used else purse.idle_ticks + 1
            purse.used = False
            if purse.doubtful or purse.is_idle:
                due.append(KeyMonth(*key))
        for at in range(0, len(due), _AT_ONCE):
            if leaving := [each for of in due[at : at + _AT_ONCE] for each in self._due(of)]:
                await self._give_back(leaving, tell=False)

    def _due(self, of: KeyMonth) -> "list[_Leaving]":
        """Take what is idle out of an allowance, or nothing, to hear of it; forget it if there is nothing of it."""
        purse = self._purses.get(of)
        if purse is None or purse.leaving_nano or of in self._asking:
            return []
        leaving = self._leave(of) if purse.is_idle else []
        if purse.doubtful:
            return leaving or [_Leaving(of, purse, 0)]
        if purse.is_idle and not purse.told.granted_nano:
            del self._purses[of]
        return leaving

    # --- asking ---

    async def _ask(self, of: KeyMonth, asking: _Asking) -> None:
        try:
            await asyncio.sleep(0)  # those who come at the same time are asked for together
            asking.sent = True
            held = self._held(of.key_id).counting(asking.quota, of.month)
            ask = Ask(held.count, held.amount_nano, asking.least_nano, asking.wanted_nano)
            try:
                answer = await self._store.ask(self._member(), of, ask)
            except BaseException as error:
                self._metrics.allowance_asks.labels("failed").inc()
                self._purse(of).doubtful = True  # it may have been granted
                if isinstance(error, Lapsed):
                    raise StoreUnavailable("this replica's lease has run out") from error
                raise
        finally:
            del self._asking[of]
        self._take(of, answer)

    def _take(self, of: KeyMonth, answer: Answer | None) -> None:
        if answer is None:
            self._cache.doubt([of.key_id])
            return
        self._metrics.allowance_asks.labels(answer.outcome.value).inc()
        purse = self._purse(of)
        if answer.granted.version > purse.told.version:
            # What is on its way back, others may have before it is known here that it arrived.
            purse.whole = answer.whole and not purse.leaving_nano
        purse.take_over(answer.granted)
        self._cache.apply(Posted(answer.revision, totals={of.key_id: answer.totals}))
        if answer.outcome is Outcome.HELD:
            self._quiet.setdefault(of.key_id, _Quiet(0.0)).until_s = self._monotonic() + _AGAIN_S
            # What is left here is too little for those who wait here: others may do with it.
            if leaving := self._leave(of):
                self._in_background(self._give_back(leaving, tell=True))

    async def _wait(self, quiet: _Quiet) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        quiet.waiting.add(future)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, quiet.until_s - self._monotonic())):
                    await future
        finally:
            quiet.waiting.discard(future)

    # --- giving back ---

    def _leave(self, of: KeyMonth) -> "list[_Leaving]":
        """Take out of an allowance what none of its requests may cost: from now on nothing is admitted by it."""
        purse = self._purses.get(of)
        unused = 0 if purse is None else unused_nano(purse.allowance, self._held(of.key_id).of_month(of.month))
        if purse is None or not unused:
            return []
        purse.leaving_nano += unused
        purse.end_whole()
        return [_Leaving(of, purse, unused)]

    async def _give_back(self, leaving: "Sequence[_Leaving]", *, tell: bool) -> None:
        """Tell the store of what was taken out of allowances."""
        told: Mapping[KeyMonth, Granted] | None = None
        try:
            amounts = [(each.of, each.nano) for each in leaving]
            told = await self._store.give_back(self._member(), amounts, tell=tell)
        finally:
            for of, purse, nano in leaving:
                # Of what the store knows nothing, it has taken back all.
                nothing = Granted(0, purse.told.version + 1)
                purse.left(nano, None if told is None else told.get(of, nothing))

    def _of_keys(self, key_ids: Iterable[str]) -> list[KeyMonth]:
        each = (KeyMonth(key_id, month) for key_id in key_ids for month in self._months)
        return [of for of in each if of in self._purses]

    def _purse(self, of: KeyMonth) -> _Purse:
        self._months.add(of.month)
        return self._purses.setdefault(of, _Purse())

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(_quietly(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _quietly(work: Coroutine[None, None, None]) -> None:
    with suppress(StoreUnavailable, Lapsed):
        await work


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Mark an ask's error as seen: those who wait for it got it, if any is left."""
    if not task.cancelled():
        task.exception()
