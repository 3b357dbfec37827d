"""The book of holds and the admissions file: what is under way survives a restart, and what is over leaves nothing."""

import asyncio
import random
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from keytoll.admission.bodies import UPLOAD_S, LargeBodies
from keytoll.admission.file import AdmissionsFile
from keytoll.admission.holds import HoldBook
from keytoll.core.holds import KeyHolds
from keytoll.core.ids import uuid7
from keytoll.core.ledger import Entry


def entry(
    number: int, *, key_id: str = "key_1", hold: int | None = 10, at_us: int = 5, month: str = "2026-11"
) -> Entry:
    return Entry(
        decision_id=uuid7(at_us, number.to_bytes(10)),
        key_id=key_id,
        owner="users/España",
        model="m",
        endpoint="chat/completions",
        price_id="p",
        admitted_at_us=at_us,
        month=month,
        status=0,
        attempts=0,
        reported=None,
        hold_nano=hold,
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def opened(folder: Path, **options: int) -> tuple[AdmissionsFile, list[Entry]]:
    file = AdmissionsFile(folder, **options)
    return file, file.open()


class Ledger:
    """Knows which decisions are settled."""

    def __init__(self, *settled: Entry) -> None:
        self.known = {entry.decision_id for entry in settled}

    async def settled(self, decision_ids: Sequence[UUID]) -> set[UUID]:
        return self.known & set(decision_ids)


async def book_in(folder: Path, clock: Clock | None = None, *settled: Entry) -> HoldBook:
    book = HoldBook(AdmissionsFile(folder), monotonic=clock or Clock())
    await book.restore(Ledger(*settled))  # type: ignore[arg-type]
    return book


async def test_holds_are_there_again_after_a_crash(tmp_path: Path) -> None:
    book, entries = await book_in(tmp_path), [entry(1), entry(2, hold=None), entry(3, month="2026-12", hold=2**63 - 1)]
    for each in entries:
        book.place(each)
    again = await book_in(tmp_path)
    assert again.of("key_1") == book.of("key_1")
    assert sorted(again.older_than(-1), key=str) == sorted(entries, key=str)


async def test_what_ended_or_was_voided_is_not_held_again(tmp_path: Path) -> None:
    book = await book_in(tmp_path)
    for number in (1, 2, 3):
        book.place(entry(number))
    book.void(entry(1).decision_id)
    book.end([entry(2).decision_id, entry(99).decision_id])
    assert len(book) == 1
    again = await book_in(tmp_path, None, entry(2))  # the ledger tells of it
    assert again.older_than(-1) == [entry(3)]
    assert again.of("key_2") == KeyHolds()


def test_a_voided_request_is_not_counted_and_voiding_twice_is_harmless(tmp_path: Path) -> None:
    ended: list[UUID] = []
    book = HoldBook(opened(tmp_path)[0], monotonic=Clock(), on_end=ended.append)
    book.place(entry(1))
    book.void(entry(1).decision_id)
    book.void(entry(1).decision_id)
    assert (len(book), book.of("key_1"), ended) == (0, KeyHolds(), [entry(1).decision_id])


async def test_a_request_is_voided_by_envoys_id_of_it_also_after_a_restart(tmp_path: Path) -> None:
    book = await book_in(tmp_path)
    for number in (1, 2, 3):
        book.place(entry(number), request_id=f"r{number}")
    book.void_request("r1")
    book.void_request("r1")
    book.void_request("never heard of")
    assert book.of("key_1").in_all.count == 2
    again = await book_in(tmp_path, None, entry(3))
    again.void_request("r1")
    again.void_request("r2")
    again.void_request("r3")
    assert (len(again), again.of("key_1")) == (0, KeyHolds())
    assert len(await book_in(tmp_path, None, entry(3))) == 0


async def test_a_settled_request_is_no_longer_known_by_its_id_and_one_without_an_id_never_was(tmp_path: Path) -> None:
    book = await book_in(tmp_path)
    book.place(entry(1), request_id="r")
    book.end([entry(1).decision_id])
    book.place(entry(2))
    book.void_request("r")
    book.void_request("")
    assert book.older_than(-1) == [entry(2)]


@pytest.mark.parametrize("damaged", [b"5", b"null", b"[]", b'{"a": 1}'])
async def test_an_unreadable_request_id_costs_no_hold(tmp_path: Path, damaged: bytes) -> None:
    (await book_in(tmp_path)).place(entry(1), request_id="r")
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes().replace(b'"r"', damaged))
    again = await book_in(tmp_path)
    again.void_request("r")
    assert again.older_than(-1) == [entry(1)]


def test_segments_are_removed_when_nothing_in_them_is_under_way(tmp_path: Path) -> None:
    file, _ = opened(tmp_path, segment_lines=10)
    for number in range(95):
        file.append(entry(number))
    assert len(list(tmp_path.iterdir())) == 10
    for number in range(95):
        if number != 42:
            file.end(entry(number).decision_id)
    assert len(list(tmp_path.iterdir())) == 2  # the one with what is under way, and the active one
    again, entries = opened(tmp_path, segment_lines=10)
    assert entry(42) in entries
    for each in entries:
        again.end(each.decision_id)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("garbage", [b"\x00\xff", b"{", b"[]", b'{"id": 5}', b'{"void": "x"}', b'"text"', b"null"])
def test_a_line_that_a_crash_cut_loses_no_other(tmp_path: Path, garbage: bytes) -> None:
    file, _ = opened(tmp_path)
    file.append(entry(1))
    file.close()
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes().rstrip(b"\0") + garbage + b"\n")
    again, entries = opened(tmp_path)
    assert entries == [entry(1)]
    again.append(entry(2))
    assert opened(tmp_path)[1] == [entry(1), entry(2)]


def test_any_cut_of_the_file_gives_back_every_whole_line_before_it(tmp_path: Path) -> None:
    file, _ = opened(tmp_path)
    for number in range(5):
        file.append(entry(number))
    (segment,) = tmp_path.iterdir()
    whole = segment.read_bytes().rstrip(b"\0")
    for cut in random.Random(1).sample(range(len(whole) + 1), 40):
        for path in tmp_path.iterdir():
            path.unlink()
        segment.write_bytes(whole[:cut])
        assert opened(tmp_path)[1] == [entry(number) for number in range(whole[:cut].count(b"\n"))] or (
            whole[:cut].count(b"\n") < 5 and whole[cut : cut + 1] == b"\n"
        )


async def test_an_admission_that_cannot_be_written_holds_nothing(tmp_path: Path) -> None:
    """The disk gives room for a segment as a whole, so that it is full between two of them."""
    book = HoldBook(AdmissionsFile(tmp_path, segment_lines=1), monotonic=Clock())
    await book.restore(Ledger())  # type: ignore[arg-type]
    book.place(entry(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores SIGXFSZ
    try:
        for _ in range(2):
            with pytest.raises(OSError, match=r"full|large"):
                book.place(entry(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(book) == 1
    assert len(list(tmp_path.iterdir())) == 1
    book.place(entry(3))
    assert [e.decision_id for e in opened(tmp_path)[1]] == [entry(1).decision_id, entry(3).decision_id]


def test_lines_of_any_length_are_kept_or_refused_in_whole(tmp_path: Path) -> None:
    file, _ = opened(tmp_path, segment_lines=100)
    owners = ["users/" + "u" * length for length in (1, 20_000, 40_000, 60_000, 3)]
    for number, owner in enumerate(owners):
        file.append(replace(entry(number), owner=owner))
    with pytest.raises(OSError, match="too long"):
        file.append(replace(entry(9), owner="users/" + "u" * 70_000))
    assert [each.owner for each in opened(tmp_path)[1]] == owners


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    assert opened(tmp_path)[1] == []
    assert (tmp_path / "notes").read_text() == "hello"
    assert next(tmp_path.glob("admissions-*")).stat().st_mode & 0o777 == 0o600


async def test_age_is_told_by_a_clock_that_never_steps(tmp_path: Path) -> None:
    clock = Clock()
    book = await book_in(tmp_path, clock)
    book.place(entry(1, at_us=10**18))  # a wall clock far ahead
    clock.now_s += 50
    book.place(entry(2, at_us=0))
    assert book.older_than(60) == []
    assert book.older_than(40) == [entry(1, at_us=10**18)]
    assert book.older_than(60, or_admitted_before_us=1) == [entry(2, at_us=0)]


async def test_who_waits_for_room_is_woken_by_any_end_of_its_key(tmp_path: Path) -> None:
    book = await book_in(tmp_path)
    book.place(entry(1))
    book.place(entry(2, key_id="key_2"))
    waits = [asyncio.ensure_future(book.released("key_1")) for _ in range(2)]
    await asyncio.sleep(0)
    assert book.waiting("key_1") == 2
    book.end([entry(2).decision_id])
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    waits[0].cancel()
    await asyncio.sleep(0)
    book.end([entry(1).decision_id])
    await waits[1]
    assert book.waiting("key_1") == 0


MIB = 2**20


def test_large_bodies_are_bounded_for_all_keys_together() -> None:
    bodies = LargeBodies(monotonic=Clock())
    taken = [bodies.begin(f"key_{n}", f"r{n}", 32 * MIB) for n in range(25)]
    assert taken == [True] * 24 + [False]
    assert not bodies.begin("key_new", "small", 1)
    bodies.refuse("r0")
    assert bodies.begin("key_new", "r", 32 * MIB)


def test_it_is_bytes_that_are_bounded_not_requests() -> None:
    """A few callers with long prompts must not shut out everybody else's."""
    bodies = LargeBodies(monotonic=Clock())
    assert all(bodies.begin("key_1", f"r{n}", 20_000) for n in range(10_000))
    assert all(bodies.begin("key_2", f"s{n}", 20_000) for n in range(10_000))


def test_large_bodies_are_bounded_for_each_key_and_end_with_their_request() -> None:
    clock = Clock()
    bodies = LargeBodies(monotonic=clock)
    assert all(bodies.begin("key_1", f"r{n}", 32 * MIB) for n in range(8))
    assert not bodies.begin("key_1", "one too many", 32 * MIB)
    assert bodies.begin("key_2", "other", 32 * MIB)
    bodies.refuse("r0")  # its full Check refused it
    assert bodies.begin("key_1", "in its place", 32 * MIB)
    decision = entry(1).decision_id
    bodies.decide("r1", decision)
    clock.now_s += UPLOAD_S + 1  # uploads that never came to a full Check are forgotten, what is decided is not
    assert all(bodies.begin("key_1", f"s{n}", 32 * MIB) for n in range(7))
    assert not bodies.begin("key_1", "still one too many", 32 * MIB)
    bodies.end(decision)
    assert bodies.begin("key_1", "now", 32 * MIB)
    bodies.end(decision)
