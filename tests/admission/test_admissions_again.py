"""The admissions file over more than one restart: no hold is dropped, and none that was voided comes back."""

from pathlib import Path

from keytoll.admission.file import AdmissionsFile
from keytoll.core.ids import uuid7
from keytoll.core.ledger import Entry


def entry(number: int) -> Entry:
    return Entry(
        decision_id=uuid7(5, number.to_bytes(10)),
        key_id="key_1",
        owner="users/alice",
        model="m",
        endpoint="chat/completions",
        price_id="p",
        admitted_at_us=5,
        month="2026-11",
        status=0,
        attempts=0,
        reported=None,
        hold_nano=10,
    )


def reopened(folder: Path) -> list[Entry]:
    """Return what a process finds that crashes at once after its start."""
    file = AdmissionsFile(folder)
    found = file.open()
    file.close()
    return found


def test_a_hold_after_a_voided_one_outlives_any_number_of_restarts(tmp_path: Path) -> None:
    file = AdmissionsFile(tmp_path)
    file.open()
    file.append(entry(1))
    file.void(entry(1).decision_id)
    file.append(entry(2))
    file.close()
    assert [reopened(tmp_path) for _ in range(3)] == [[entry(2)]] * 3


def test_a_void_in_a_later_segment_is_kept_as_long_as_the_admission_it_voids(tmp_path: Path) -> None:
    file = AdmissionsFile(tmp_path, segment_lines=2)
    file.open()
    for number in (1, 2, 3):
        file.append(entry(number))
    file.void(entry(1).decision_id)  # its admission is in the segment before
    file.append(entry(4))
    file.end(entry(3).decision_id)  # the ledger knows of that one
    file.close()
    assert [reopened(tmp_path) for _ in range(3)] == [[entry(2), entry(3), entry(4)]] * 3
    last = AdmissionsFile(tmp_path)
    for found in last.open():
        last.end(found.decision_id)
    last.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_admission_that_stands_there_twice_is_held_and_ended_once(tmp_path: Path) -> None:
    file = AdmissionsFile(tmp_path)
    file.open()
    file.append(entry(1))
    file.close()
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes() * 2)
    assert reopened(tmp_path) == [entry(1)]
    again = AdmissionsFile(tmp_path)
    again.open()
    again.end(entry(1).decision_id)
    again.close()
    assert len(list(tmp_path.iterdir())) == 1
