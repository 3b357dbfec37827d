"""Admission stops before the disk is full and when Envoy loses log lines, and goes on by itself."""

from pathlib import Path

import pytest

from keytoll.envoy.guard import Disk, DiskGuard, Failing, Verdict, free_bytes, judge
from keytoll.metrics import Metrics

MIB = 1024 * 1024
FLOOR = 64 * MIB
JOURNAL, ADMISSIONS = "the journal's disk", "the admissions' disk"
FULL = "the journal's disk has only 12 MiB left, below its floor of 64 MiB"
FAILED = "Envoy failed to write its log"


def seen(
    before: Verdict | None = None, *, now_s: float = 0, journal_mib: int | None = 100, failed: tuple[str, ...] = ()
) -> Verdict:
    disks = [Disk(JOURNAL, None if journal_mib is None else journal_mib * MIB), Disk(ADMISSIONS, 100 * MIB)]
    return judge(before or Verdict(), now_s=now_s, disks=disks, failed=failed, floor_bytes=FLOOR)


@pytest.mark.parametrize(
    ("free_mib", "problem"),
    [
        (100, None),
        (64, None),
        (63, "the journal's disk has only 63 MiB left, below its floor of 64 MiB"),
        (12, FULL),
        (0, "the journal's disk has only 0 MiB left, below its floor of 64 MiB"),
        (None, "the journal's disk can't be asked how much room it has"),
    ],
)
def test_a_disk_below_its_floor_is_a_problem(free_mib: int | None, problem: str | None) -> None:
    assert seen(journal_mib=free_mib).problem == problem


def test_any_of_the_disks_counts() -> None:
    disks = [Disk(JOURNAL, 100 * MIB), Disk(ADMISSIONS, 63 * MIB)]
    problem = judge(Verdict(), now_s=0, disks=disks, failed=(), floor_bytes=FLOOR).problem
    assert problem == "the admissions' disk has only 63 MiB left, below its floor of 64 MiB"


def test_a_disk_at_its_floor_does_not_open_and_close_admission_all_the_time() -> None:
    verdict, problems = Verdict(), []
    for free_mib in (65, 63, 65, 63, 79, 80, 65, 64, 63):
        verdict = seen(verdict, journal_mib=free_mib)
        problems.append(verdict.problem is not None)
    assert problems == [False, True, True, True, True, False, False, False, True]


def test_a_failed_write_pauses_admission_for_some_seconds_after_the_last_one() -> None:
    verdict = seen(now_s=10, failed=("Envoy",))
    assert verdict.problem == FAILED
    verdict = seen(verdict, now_s=14, failed=("Envoy",))
    assert seen(verdict, now_s=18.9).problem == FAILED
    assert seen(verdict, now_s=19).problem is None


def test_each_failure_soon_after_a_pause_doubles_the_next_up_to_five_minutes() -> None:
    """Where only admitting can tell whether writes work again, tries that lose entries become rare."""
    verdict, now_s, pauses = Verdict(), 0.0, []
    for _ in range(8):
        verdict = seen(verdict, now_s=now_s, failed=("Envoy",))
        assert verdict.failing is not None
        pauses.append(verdict.failing.pause_s)
        now_s = verdict.failing.until_s + 1
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    assert seen(verdict, now_s=now_s + 300, failed=("Envoy",)).failing == Failing("Envoy", now_s + 305, 5)


def test_both_must_be_well() -> None:
    verdict = seen(now_s=0, journal_mib=12, failed=("Envoy",))
    assert verdict.problem == FULL
    verdict = seen(verdict, now_s=1, journal_mib=100)
    assert verdict.problem == FAILED
    assert seen(verdict, now_s=5).problem is None


async def test_the_guard_asks_the_real_disk_and_tells_metrics(tmp_path: Path) -> None:
    metrics = Metrics()
    sample = metrics.registry.get_sample_value
    for floor_bytes, blocked in ((0, 0), (2**62, 1)):
        guard = DiskGuard(disks={JOURNAL: tmp_path}, envoys={}, floor_bytes=floor_bytes, metrics=metrics)
        assert guard.problem is None
        await guard.look()
        assert (guard.problem is not None) == blocked
        assert sample("keytoll_admission_blocked") == blocked
        assert sample("keytoll_journal_disk_free_bytes") == pytest.approx(free_bytes(tmp_path), rel=0.5)


async def test_a_disk_that_fills_up_and_is_cleared_stops_admission_for_that_time(tmp_path: Path) -> None:
    left = iter([100 * MIB, 12 * MIB, 100 * MIB])
    guard = DiskGuard(
        disks={JOURNAL: tmp_path}, envoys={}, floor_bytes=FLOOR, metrics=Metrics(), free=lambda _: next(left)
    )
    problems = []
    for _ in range(3):
        await guard.look()
        problems.append(guard.problem)
    assert problems == [None, FULL, None]


async def test_a_folder_that_is_gone_stops_admission(tmp_path: Path) -> None:
    guard = DiskGuard(disks={JOURNAL: tmp_path / "gone"}, envoys={}, floor_bytes=0, metrics=Metrics())
    await guard.look()
    assert guard.problem == "the journal's disk can't be asked how much room it has"
