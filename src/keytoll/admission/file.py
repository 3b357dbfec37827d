"""The admissions file: what Check has admitted and settlement has not yet ended, so that a restart can hold it again.

One line is appended before Check answers, without fsync: it survives a crash of Keytoll, which is what it is for. The
file is a row of segments, each removed once nothing in it is under way any more; so its size is bounded by what is
admitted meanwhile, not by how long Keytoll runs.
"""

import json
import mmap
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard
from uuid import UUID

import structlog

from keytoll.core.ledger import Admitted, Entry
from keytoll.core.months import is_month

_log = structlog.get_logger(__name__)

_SEGMENT = re.compile(r"admissions-(\d{9})\.jsonl", re.ASCII)
_ROOM_OF_A_LINE_BYTES = 512
_LEAST_BYTES = 64 * 1024


class AdmissionsFile:
    """The segments in one folder. Raises OSError where they can't be written or read."""

    def __init__(self, folder: Path, *, segment_lines: int = 4096) -> None:
        self._folder = folder
        self._segment_lines = segment_lines
        self._under_way: dict[int, int] = {}
        self._segment_of: dict[int, int] = {}
        """By decisions' numbers: a UUID is hashed by Python, at several times the cost."""
        self._request_of: dict[int, str] = {}
        self._voided_by: dict[int, set[int]] = {}
        """The later segments that void admissions of a segment: they must outlast it, or a restart would hold those."""
        self._active = 0
        self._lines = 0
        self._segment: _Segment | None = None

    def open(self) -> list[Entry]:
        """Return the admissions that were not voided, and begin a segment of this process's own."""
        found: dict[UUID, Entry] = {}
        for number, path in self._segments():
            for line in path.read_bytes().rstrip(b"\0").split(b"\n"):
                self._replay(number, line, found)
            self._under_way.setdefault(number, 0)
        self._begin(max(self._under_way, default=0) + 1)
        self._remove_idle()
        return list(found.values())

    def request_of(self, decision_id: UUID) -> str:
        """Return Envoy's id of the request of an admission that `open` returned; empty if it isn't known."""
        return self._request_of.get(decision_id.int, "")

    def append(self, admitted: Admitted | Entry, *, request_id: str = "") -> None:
        """Keep an admission, with Envoy's id of its request."""
        if self._lines >= self._segment_lines:
            self._begin(self._active + 1)
        self._write(_admission_line(admitted, request_id))
        self._segment_of[admitted.decision_id.int] = self._active
        self._under_way[self._active] += 1

    def void(self, decision_id: UUID) -> None:
        """Note that an admission came to nothing, and forget it."""
        self._write(json.dumps({"void": decision_id.hex}).encode())
        self._note_void(decision_id, self._active)
        self.end(decision_id)

    def end(self, decision_id: UUID) -> None:
        """Forget an admission that the ledger has taken over."""
        number = self._forget(decision_id)
        if number is not None and self._is_idle(number):
            self._remove(number)

    def close(self) -> None:
        """Close the segment that is written to."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _segments(self) -> Iterator[tuple[int, Path]]:
        for path in sorted(self._folder.iterdir()):
            if match := _SEGMENT.fullmatch(path.name):
                yield int(match[1]), path

    def _replay(self, number: int, line: bytes, found: dict[UUID, Entry]) -> None:
        if not line:
            return
        try:
            record = json.loads(line)
            if "void" in record:
                self._replay_void(UUID(record["void"]), number, found)
                return
            entry, request_id = _entry(record), _request_id(record)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # Cut by a crash or a full disk in the middle of its write: its Check was never answered.
            _log.warning("admission_unreadable", segment=number, bytes=len(line))
            return
        found[entry.decision_id] = entry
        self._note(entry.decision_id, number)
        if request_id:
            self._request_of[entry.decision_id.int] = request_id

    def _replay_void(self, decision_id: UUID, number: int, found: dict[UUID, Entry]) -> None:
        """Forget an admission, but remove no segment yet: this one may hold others, which are not read so far."""
        if found.pop(decision_id, None) is not None:
            self._note_void(decision_id, number)
            self._forget(decision_id)

    def _note(self, decision_id: UUID, number: int) -> None:
        self._forget(decision_id)
        self._segment_of[decision_id.int] = number
        self._under_way[number] = self._under_way.get(number, 0) + 1

    def _note_void(self, decision_id: UUID, by: int) -> None:
        """Keep the segment that voids an admission for as long as the one that holds the admission."""
        number = self._segment_of.get(decision_id.int)
        if number is not None and number != by and by not in self._voided_by.setdefault(number, set()):
            self._voided_by[number].add(by)
            self._under_way[by] = self._under_way.get(by, 0) + 1

    def _forget(self, decision_id: UUID) -> int | None:
        """Count an admission no more, and return its segment."""
        self._request_of.pop(decision_id.int, None)
        number = self._segment_of.pop(decision_id.int, None)
        if number is not None:
            self._under_way[number] -= 1
        return number

    def _begin(self, number: int) -> None:
        size_bytes = max(self._segment_lines * _ROOM_OF_A_LINE_BYTES, _LEAST_BYTES)
        segment, before = _Segment(self._path(number), size_bytes), self._active
        self.close()
        self._segment, self._active, self._lines = segment, number, 0
        self._under_way[number] = 0
        if self._is_idle(before):
            self._remove(before)

    def _write(self, line: bytes) -> None:
        if self._segment is None:
            raise OSError("the admissions file is closed")
        if not self._segment.append(line):
            self._begin(self._active + 1)
            if not self._segment.append(line):
                raise OSError("an admission is too long to be written down")
        self._lines += 1

    def _is_idle(self, number: int) -> bool:
        return self._under_way.get(number) == 0 and number != self._active

    def _remove_idle(self) -> None:
        for number in sorted(self._under_way):
            if self._is_idle(number):
                self._remove(number)

    def _remove(self, number: int) -> None:
        """Remove a segment, then those that were kept for its sake only."""
        gone = [number]
        for each in gone:
            del self._under_way[each]
            self._path(each).unlink(missing_ok=True)
            for later in self._voided_by.pop(each, ()):
                self._under_way[later] -= 1
                gone += [later] if self._is_idle(later) else []

    def _path(self, number: int) -> Path:
        return self._folder / f"admissions-{number:09d}.jsonl"


class _Segment:
    """A segment that is written to, through memory that it shares with the kernel.

    What is put there outlives this process as what is written does, and it takes no call of the kernel, which costs more
    than all else that is done with a line. Its blocks are allocated before: later, no room on the disk would be told by a
    signal that ends the process. What is not used yet is NUL.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size_bytes)
            self._memory = mmap.mmap(fd, size_bytes)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(fd)
        self._size_bytes, self._end = size_bytes, 0

    def append(self, line: bytes) -> bool:
        """Append a line, unless there is no room for it."""
        start, end = self._end, self._end + len(line) + 1
        if end > self._size_bytes:
            return False
        self._memory[start:end] = line + b"\n"
        self._end = end
        return True

    def close(self) -> None:
        """Write to it no more."""
        self._memory.close()


def _admission_line(admitted: Admitted | Entry, request_id: str) -> bytes:
    names = _names(admitted.key_id, admitted.owner, admitted.model, admitted.endpoint, admitted.price_id)
    hold = "null" if admitted.hold_nano is None else admitted.hold_nano
    return (
        f'{{"id": "{admitted.decision_id.hex}", {names}, "at_us": {admitted.admitted_at_us}, '
        f'"month": "{admitted.month}", "hold": {hold}, "req": {_json_text(request_id)}}}'
    ).encode()


@lru_cache(maxsize=4096)
def _names(key_id: str, owner: str, model: str, endpoint: str, price_id: str) -> str:
    """Return the part of a line that many lines share."""
    record = {"key": key_id, "owner": owner, "model": model, "endpoint": endpoint, "price": price_id}
    return json.dumps(record, ensure_ascii=False)[1:-1]


def _json_text(text: str) -> str:
    # Envoy's own ids are plain, and to look is quicker than to escape.
    return f'"{text}"' if text.replace("-", "").isalnum() and text.isascii() else json.dumps(text, ensure_ascii=False)


def _entry(record: dict[str, object]) -> Entry:
    hold, at_us = record["hold"], record["at_us"]
    texts = [record[name] for name in ("id", "key", "owner", "model", "endpoint", "price", "month")]
    if not all(isinstance(text, str) and text and text.isprintable() for text in texts):
        raise TypeError("not an admission")
    decision_id, key_id, owner, model, endpoint, price_id, month = map(str, texts)
    # Checked as closely as a log entry: what no store can keep could never be given up as unsettled.
    if not is_month(month) or not _is_whole(at_us) or not (hold is None or _is_whole(hold)):
        raise ValueError("not an admission")
    return Entry(
        decision_id=UUID(decision_id),
        key_id=key_id,
        owner=owner,
        model=model,
        endpoint=endpoint,
        price_id=price_id,
        admitted_at_us=at_us,
        month=month,
        status=0,
        attempts=0,
        reported=None,
        hold_nano=hold,
    )


def _request_id(record: dict[str, object]) -> str:
    """Return the request's id. One that can't be read costs no hold: it only means that nothing voids it by that id."""
    request_id = record.get("req")
    return request_id if isinstance(request_id, str) else ""


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
