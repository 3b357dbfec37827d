"""The guard over what charging depends on: room on the disks, and Envoy's writes to its log.

An Envoy whose disk is full answers its callers and drops the log lines without a word, so what it serves is never
charged. While that is so, or near, Check answers 503 instead.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from keytoll.envoy.admin import Admin, AdminUnavailable
from keytoll.metrics import Metrics

_log = structlog.get_logger(__name__)

_LOOK_S = 1.0
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 300.0
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Disk:
    """How much is left on a disk for those who aren't root; None if that can't be told."""

    name: str
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Failing:
    """That `name` failed to write its log: admission pauses until `until_s`.

    The pause doubles if it fails again soon after: where writes fail though there is room (a quota of the disk, say),
    the only way to find out that they work again is to admit, and each try may lose entries.
    """

    name: str
    until_s: float
    pause_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard knows: disks that fell below the floor and have not recovered, and the last failed write."""

    low: frozenset[str] = frozenset()
    failing: Failing | None = None
    problem: str | None = None


def judge(before: Verdict, *, now_s: float, disks: Sequence[Disk], failed: Sequence[str], floor_bytes: int) -> Verdict:
    """Return the next verdict, from the one before and what is seen at `now_s`, on a monotonic clock.

    `failed` names those whose log writes failed since. A disk that fell below the floor is well again with a quarter
    more than that, so that one at the floor doesn't open and close admission all the time.
    """
    low = {disk.name: _shortage(disk, floor_bytes) for disk in disks if _is_low(disk, before.low, floor_bytes)}
    failing = _failing(before.failing, now_s=now_s, failed=failed)
    problem = next(iter(low.values()), None)
    if problem is None and failing is not None and now_s < failing.until_s:
        problem = f"{failing.name} failed to write its log"
    return Verdict(frozenset(low), failing, problem)


def _is_low(disk: Disk, low: frozenset[str], floor_bytes: int) -> bool:
    if disk.free_bytes is None:
        return True
    return disk.free_bytes < (floor_bytes + floor_bytes // 4 if disk.name in low else floor_bytes)


def _shortage(disk: Disk, floor_bytes: int) -> str:
    if disk.free_bytes is None:
        return f"{disk.name} can't be asked how much room it has"
    if disk.free_bytes >= floor_bytes:
        return f"{disk.name} has {_mib(disk.free_bytes)} left, barely above its floor of {_mib(floor_bytes)}"
    return f"{disk.name} has only {_mib(disk.free_bytes)} left, below its floor of {_mib(floor_bytes)}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes // _MIB:,} MiB"


def _failing(before: Failing | None, *, now_s: float, failed: Sequence[str]) -> Failing | None:
    if not failed:
        return before
    pause_s = _FIRST_PAUSE_S
    if before is not None and now_s < before.until_s:
        pause_s = before.pause_s  # what was in flight when the pause began
    elif before is not None and now_s < before.until_s + _LONGEST_PAUSE_S:
        pause_s = min(2 * before.pause_s, _LONGEST_PAUSE_S)
    return Failing(failed[0], now_s + pause_s, pause_s)


def free_bytes(folder: Path) -> int:
    """Return how much may still be written to the folder's disk. Raises OSError."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an Envoy said of itself. A restart counts failures anew, and shows in when it made its admin socket.

    It shows in the uptime as well, but that stands among all that this Envoy was built with: to tell it takes Envoy
    longer than a request.
    """

    bound_us: int | None
    failures: int


class DiskGuard:
    """Looks each second. `disks` are folders and `envoys` admin interfaces, by what a problem calls them."""

    def __init__(
        self,
        *,
        disks: Mapping[str, Path],
        envoys: Mapping[str, Admin],
        floor_bytes: int,
        metrics: Metrics,
        free: Callable[[Path], int] = free_bytes,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disks = disks
        self._envoys = envoys
        self._floor_bytes = floor_bytes
        self._metrics = metrics
        self._free = free
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}
        self._verdict = Verdict()

    @property
    def problem(self) -> str | None:
        """Why nothing may be admitted at the moment, if so."""
        return self._verdict.problem

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Look once. Call it before the first Check may come."""
        disks = [Disk(name, self._free_bytes(folder)) for name, folder in self._disks.items()]
        if any(_is_low(disk, frozenset(), self._floor_bytes) for disk in disks):
            self._judge(disks, failed=())  # that must not wait for an Envoy which is slow to answer
        rises = await asyncio.gather(*(self._rise(name, admin) for name, admin in self._envoys.items()))
        self._judge(disks, failed=[name for name, rise in zip(self._envoys, rises, strict=True) if rise])
        self._metrics.envoy_log_write_failures.inc(sum(rises))
        self._metrics.journal_disk_free.set(min((disk.free_bytes or 0 for disk in disks), default=0))

    def _judge(self, disks: Sequence[Disk], *, failed: Sequence[str]) -> None:
        before = self._verdict.problem
        self._verdict = judge(
            self._verdict, now_s=self._monotonic(), disks=disks, failed=failed, floor_bytes=self._floor_bytes
        )
        problem = self._verdict.problem
        self._metrics.admission_blocked.set(problem is not None)
        if problem is not None and before is None:
            _log.error("admission_blocked", problem=problem)
        elif problem is None and before is not None:
            _log.info("admission_resumed")

    def _free_bytes(self, folder: Path) -> int | None:
        try:
            return self._free(folder)
        except OSError:
            return None

    async def _rise(self, name: str, admin: Admin) -> int:
        """Return how many writes failed since the last look. The first look takes what it finds as past."""
        try:
            seen = _Seen(admin.bound_us(), await admin.log_writes_failed())
        except AdminUnavailable:  # away: it serves nobody
            return 0
        before = self._seen.get(name, seen)
        self._seen[name] = seen
        restarted = seen.bound_us != before.bound_us or seen.failures < before.failures
        return seen.failures if restarted else seen.failures - before.failures
