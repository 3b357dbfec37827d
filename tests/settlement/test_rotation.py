"""Rotation renames once at a time, and removes nothing that may still hold an unread entry.

The writer here is a model of Envoy's file log, to have every order of events; tests/envoy has the real one.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keytoll.envoy.admin import AdminUnavailable
from keytoll.envoy.journal import JournalFollower
from keytoll.envoy.rotation import JournalRotation
from settlement.conftest import Desk
from settlement.lines import charge, line

SEGMENT_BYTES = 3 * len(line(1))
GRACE_S = 15.0


@dataclass
class Writer:
    """Envoy's file log: lines wait for a flush, and it is the flush that opens the file anew."""

    folder: Path
    away: bool = False
    asked: int = 0
    waiting: list[int] = field(default_factory=list)
    flushed: list[int] = field(default_factory=list)
    _fd: int = -1
    reopens: bool = True

    async def reopen_logs(self) -> None:
        self.asked += 1
        if self.away:
            raise AdminUnavailable("away")
        self.reopens = True

    def log(self, *numbers: int) -> None:
        self.waiting += numbers

    def flush(self) -> None:
        if self.reopens:
            self.close()
            self._fd = os.open(self.folder / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self.reopens = False
        os.write(self._fd, b"".join(map(line, self.waiting)))
        self.flushed += self.waiting
        self.waiting = []

    def write(self, *numbers: int) -> None:
        self.log(*numbers)
        self.flush()

    def kill(self) -> None:
        """What waits is lost, as with SIGKILL; a new process opens the journal by itself."""
        self.waiting, self.reopens = [], True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass
class Bench:
    """A Keytoll that rotates, a writer, and a clock that goes as a test says."""

    desk: Desk
    writer: Writer
    now_s: float = 100.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start Keytoll anew: nothing is remembered but what is stored."""
        desk = self.desk
        self.follower = JournalFollower(
            desk.folder,
            store=desk.store,
            settlement=desk.settlement,
            clock=desk.clock,
            metrics=desk.metrics,
            monotonic=lambda: self.now_s,
        )
        self.rotation = JournalRotation(
            follower=self.follower,
            writer=self.writer,
            segment_bytes=SEGMENT_BYTES,
            grace_s=GRACE_S,
            monotonic=lambda: self.now_s,
        )

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.desk.folder.iterdir())

    async def step(self, *, after_s: float = 1.0) -> None:
        self.now_s += after_s
        await self.rotation.step()

    async def read(self) -> None:
        while await self.follower.read_once():
            pass

    async def charges(self) -> list[tuple[str, int]]:
        await self.read()
        return await self.desk.charges()


@pytest.fixture
def bench(desk: Desk) -> Iterator[Bench]:
    made = Bench(desk, Writer(desk.folder))
    yield made
    made.writer.close()


async def test_a_journal_below_its_size_is_left_alone(bench: Bench) -> None:
    await bench.step()
    bench.writer.write(1, 2)
    await bench.step()
    assert bench.names == ["journal.jsonl"]
    assert bench.writer.asked == 0


async def test_a_grown_journal_is_renamed_reopened_settled_and_then_removed(bench: Bench) -> None:
    bench.writer.write(1, 2, 3)
    await bench.step()
    assert bench.names == ["journal-000001.jsonl"]
    bench.writer.write(4)
    assert bench.names == ["journal-000001.jsonl", "journal.jsonl"]
    assert await bench.charges() == [charge(n) for n in (1, 2, 3, 4)]
    await bench.step(after_s=GRACE_S - 0.1)
    assert len(bench.names) == 2
    await bench.step()
    assert bench.names == ["journal.jsonl"]
    assert await bench.charges() == [charge(n) for n in (1, 2, 3, 4)]
    assert bench.writer.asked == 1
    assert bench.desk.counted("repeated") == 0


async def test_a_segment_never_takes_the_place_of_another(bench: Bench) -> None:
    (bench.desk.folder / "journal-000041.jsonl").write_bytes(line(99))
    (bench.desk.folder / "journal-1000000.jsonl").mkdir()
    bench.writer.write(1, 2, 3)
    await bench.step()
    await bench.step()
    assert "journal-1000001.jsonl" in bench.names
    assert len(await bench.charges()) == 4


async def test_what_is_not_settled_stays_whatever_its_age(bench: Bench) -> None:
    bench.writer.write(1, 2, 3)
    await bench.step()
    bench.writer.flush()
    for _ in range(3):
        await bench.step(after_s=1000)
    assert "journal-000001.jsonl" in bench.names
    assert await bench.charges() == [charge(n) for n in (1, 2, 3)]


async def test_without_envoy_a_journal_is_renamed_once_and_kept(bench: Bench) -> None:
    """A second rename, before Envoy left the first segment, would only hide which file it writes."""
    bench.writer.write(1, 2, 3)
    bench.writer.away = True
    for _ in range(5):
        with pytest.raises(AdminUnavailable):
            await bench.step(after_s=1000)
        bench.writer.write(4, 5, 6)  # into the segment
    (bench.desk.folder / "journal.jsonl").write_bytes(line(7) * 9)  # so that a second one could be renamed
    with pytest.raises(AdminUnavailable):
        await bench.step(after_s=1000)
    assert bench.names == ["journal-000001.jsonl", "journal.jsonl"]
    assert len(await bench.charges()) == 7
    bench.writer.away = False
    await bench.step()
    assert bench.names == ["journal-000001.jsonl", "journal.jsonl"]
    await bench.step()
    assert bench.names == ["journal-000001.jsonl", "journal-000002.jsonl"]
    assert len(await bench.charges()) == 7


async def test_a_segment_that_envoy_still_writes_stays_until_it_is_quiet(bench: Bench) -> None:
    """Envoy says yes at once, and reopens at its next flush."""
    bench.writer.write(1, 2, 3)
    await bench.step()
    (bench.desk.folder / "journal.jsonl").touch()  # a new journal alone proves nothing
    await bench.read()
    await bench.step(after_s=GRACE_S - 1)
    bench.writer.reopens = False
    bench.writer.write(4)  # late, into the old one
    await bench.read()
    await bench.step()
    await bench.step(after_s=GRACE_S - 1)
    assert "journal-000001.jsonl" in bench.names
    bench.writer.reopens = True
    bench.writer.write(5)
    await bench.step()
    await bench.step()
    assert bench.names == ["journal.jsonl"]
    assert await bench.charges() == [charge(n) for n in (1, 2, 3, 4, 5)]


async def test_without_a_new_journal_no_segment_is_removed(bench: Bench) -> None:
    """Where Envoy can't open a new one, it may not have left the old one."""
    bench.writer.write(1, 2, 3)
    await bench.step()
    await bench.read()
    for _ in range(3):
        await bench.step(after_s=1000)
    assert bench.names == ["journal-000001.jsonl"]
    bench.writer.flush()
    await bench.step()
    assert bench.names == ["journal.jsonl"]


async def test_after_a_restart_envoy_reopens_before_anything_is_removed(bench: Bench) -> None:
    """Keytoll may have been killed between its rename and Envoy's reopening."""
    bench.writer.away = True
    bench.writer.write(1, 2, 3)
    with pytest.raises(AdminUnavailable):
        await bench.step()
    await bench.read()
    bench.start()
    (bench.desk.folder / "journal.jsonl").touch()
    await bench.read()
    for _ in range(3):
        with pytest.raises(AdminUnavailable):
            await bench.step(after_s=1000)
    bench.writer.write(4)
    bench.writer.away = False
    await bench.step()
    bench.writer.write(5)
    await bench.read()
    await bench.step(after_s=GRACE_S)
    await bench.step(after_s=GRACE_S)
    assert bench.names == ["journal.jsonl"]
    assert await bench.charges() == [charge(n) for n in (1, 2, 3, 4, 5)]


async def test_a_torn_segment_is_never_removed(bench: Bench) -> None:
    bench.writer.write(1, 2, 3)
    await bench.step()
    with (bench.desk.folder / "journal-000001.jsonl").open("ab") as segment:
        segment.write(line(4)[:40])
    bench.writer.write(5)
    for _ in range(4):
        await bench.read()
        await bench.step(after_s=1000)
    assert bench.names == ["journal-000001.jsonl", "journal.jsonl"]
    assert await bench.charges() == [charge(n) for n in (1, 2, 3, 5)]
    assert bench.follower.read_past_us > 0


async def test_what_others_rotated_is_read_and_left_to_them(bench: Bench) -> None:
    bench.writer.write(1)
    (bench.desk.folder / "journal.jsonl").rename(bench.desk.folder / "journal.jsonl.1")
    await bench.writer.reopen_logs()
    bench.writer.write(2)
    for _ in range(3):
        await bench.read()
        await bench.step(after_s=1000)
    assert bench.names == ["journal.jsonl", "journal.jsonl.1"]
    assert await bench.charges() == [charge(1), charge(2)]


async def test_a_folder_that_is_away_is_a_problem_and_no_end(bench: Bench) -> None:
    bench.desk.folder.rename(bench.desk.folder.with_name("gone"))
    with pytest.raises(FileNotFoundError):
        await bench.step()
    bench.desk.folder.with_name("gone").rename(bench.desk.folder)
    await bench.step()


async def test_a_segment_at_rest_for_long_stays_for_a_while_after_envoy_was_told(bench: Bench) -> None:
    bench.writer.write(1, 2, 3)
    bench.writer.away = True
    with pytest.raises(AdminUnavailable):
        await bench.step()
    await bench.read()
    (bench.desk.folder / "journal.jsonl").touch()
    with pytest.raises(AdminUnavailable):
        await bench.step(after_s=1000)
    bench.writer.away = False
    await bench.step()
    await bench.step(after_s=GRACE_S - 1)
    assert "journal-000001.jsonl" in bench.names
    await bench.step()
    assert bench.names == ["journal.jsonl"]


@dataclass
class Chance:
    """Something happens, by a seeded chance."""

    bench: Bench
    rng: random.Random
    written: int = 0

    async def act(self) -> None:
        writer, bench, rng = self.bench.writer, self.bench, self.rng
        match rng.choice(ACTIONS):
            case "log":
                numbers = range(self.written, self.written + rng.randrange(4))
                self.written = numbers.stop
                writer.log(*numbers)
            case "flush":
                writer.flush()
            case "read":
                await bench.follower.read_once()
            case "step":
                await try_step(bench)
            case "time":
                writer.flush()  # the interval of flushes is shorter than the grace
                bench.now_s += rng.choice([1, 5, 20])
            case "restart":
                bench.start()
            case "kill":
                writer.kill()
            case "away":
                writer.away = rng.random() < 0.5


ACTIONS = [*["log", "flush", "read", "step", "time", "away"] * 3, *["restart"] * 2, "kill"]


async def try_step(bench: Bench) -> None:
    try:
        await bench.step()
    except AdminUnavailable:
        assert bench.writer.away


@pytest.mark.parametrize("seed", range(12))
async def test_any_sequence_of_events_charges_each_line_once_and_leaves_one_file(bench: Bench, seed: int) -> None:
    """A seeded simulation: writes, late flushes, kills of either side, an admin that is away, time that passes."""
    chance = Chance(bench, random.Random(seed))
    for _ in range(400):
        await chance.act()
    bench.writer.away = False
    for _ in range(4):
        bench.writer.flush()
        await bench.read()
        await bench.step(after_s=GRACE_S)
    assert await bench.charges() == [charge(n) for n in sorted(bench.writer.flushed)], f"seed {seed}"
    assert bench.desk.counted("repeated") == 0
    assert len(bench.names) <= 2
    assert bench.writer.asked > 3
