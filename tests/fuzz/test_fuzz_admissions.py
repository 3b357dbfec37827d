"""Whatever bytes the admissions file holds, a start gets by, and what it holds again can be given up or settled."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random
from uuid import UUID

from settlement.conftest import NOW_US, PRICES, Desk
from settlement.lines import decision

from fuzz.conftest import evidence, rng_of, share
from fuzz.mutations import JSON, mutated
from keytoll.admission.file import AdmissionsFile
from keytoll.core.ledger import Entry

SOUND = 10_000_000
_SOUND_EACH = 10
_LINES_A_SEGMENT = 400


def admission(number: int) -> bytes:
    """Return a line as it is written."""
    record = {
        "id": decision(number).hex,
        "key": "key_1",
        "owner": "users/alice",
        "model": "m",
        "endpoint": "chat/completions",
        "price": PRICES.id,
        "at_us": NOW_US,
        "month": "2026-09",
        "hold": None if number % 7 == 0 else number,
    }
    return json.dumps(record).encode()


def void(number: int) -> bytes:
    """Return the line that voids an admission."""
    return json.dumps({"void": decision(number).hex}).encode()


def _any_line(rng: Random, numbers: Iterator[int]) -> bytes:
    return void(next(numbers) - 5) if rng.random() < 0.2 else admission(next(numbers))


def _segment(rng: Random, first: int, others: Sequence[bytes], numbers: Iterator[int]) -> bytes:
    """Return damaged lines with sound ones between them, of which every second one is voided at the end."""
    lines, sound = [], range(first, first + _LINES_A_SEGMENT, _SOUND_EACH)
    for number in range(first, first + _LINES_A_SEGMENT):
        lines += [admission(SOUND + number)] if number in sound else []
        lines.append(mutated(rng, _any_line(rng, numbers), others, JSON))
    return b"\n".join([*lines, *(void(SOUND + number) for number in sound[1::2])]) + b"\n"


async def test_a_damaged_admissions_file_opens_and_gives_back_every_sound_line(
    tmp_path: Path, desk: Desk, report: Callable[[str], None]
) -> None:
    """What it gives back is given back again by the next start, can be posted as unsettled, and then leaves nothing."""
    rng, how_many = rng_of("admissions"), share(8)
    folder = tmp_path / "damaged"
    folder.mkdir()
    numbers = count(10)
    others = [_any_line(rng, numbers) for _ in range(100)]
    firsts = range(0, how_many, _LINES_A_SEGMENT)
    for number, first in enumerate(firsts, start=1):
        content = _segment(rng, first, others, numbers)
        (folder / f"admissions-{number:09d}.jsonl").write_bytes(content)
        alone = tmp_path / f"alone-{number}"
        alone.mkdir()
        (alone / "admissions-000000001.jsonl").write_bytes(content)
        with evidence(number, content):
            _reopened(alone)
    entries = _reopened(folder)
    _judge(entries, firsts)
    assert {entry.decision_id for entry in _reopened(folder)} == {entry.decision_id for entry in entries}
    for start in range(0, len(entries), 1000):
        await desk.settlement.give_up(entries[start : start + 1000])
    assert await desk.store.count_unsettled() == len(entries)
    _reopened(folder, end=True)
    assert len(list(folder.iterdir())) == 1
    report(f"{how_many:,} lines of admissions, {len(entries):,} held again")


def _reopened(folder: Path, *, end: bool = False) -> list[Entry]:
    file = AdmissionsFile(folder)
    entries = file.open()
    for entry in entries if end else ():
        file.end(entry.decision_id)
    file.close()
    return entries


def _judge(entries: list[Entry], firsts: range) -> None:
    found = {entry.decision_id: entry for entry in entries}
    assert len(found) == len(entries)
    for first in firsts:
        sound = range(SOUND + first, SOUND + first + _LINES_A_SEGMENT, _SOUND_EACH)
        assert [decision(number) in found for number in sound] == [True, False] * (len(sound) // 2)
    for entry in entries:
        assert isinstance(entry.decision_id, UUID)
        assert entry.hold_nano is None or 0 <= entry.hold_nano < 2**63
        assert 0 <= entry.admitted_at_us < 2**63
