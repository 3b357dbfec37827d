"""The journal: the access log that Envoy writes to files, followed for as long as it grows.

Every file of the folder whose name starts with `journal` is followed from its own offset, which the store keeps in the
same transaction as the charges. Rotation needs no special case, whoever does it: the old file is read to its end under
whatever name it has, the new one from its start. Where anything is in doubt a file is read again from its start: an
entry that was settled before has no effect.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from keytoll.envoy.entries import Gone, UnreadableEntry, from_journal
from keytoll.envoy.segments import CHUNK_BYTES, JournalFile, confirmed, journal_files, whole_lines
from keytoll.metrics import Metrics
from keytoll.settlement import Logged, Settlement
from keytoll.store.base import LedgerStore, Position, Rejected, StoreUnavailable

_log = structlog.get_logger(__name__)

_POLL_S = 0.05
_RETRY_S = 1.0
_TORN_S = 5.0
"""A partial line that has not grown for so long will have no rest: Envoy died, or its disk was full, amid a write."""

_LINES_A_TURN = 32
"""Parsed in one turn of the event loop: about a millisecond, for which a Check may have to wait."""

_MAX_BRACES = 64
_KEPT_TEXT = 4096


@dataclass(frozen=True, slots=True)
class _Tail:
    """A partial last line: how large the file was with it, and since when on the monotonic clock."""

    size_bytes: int
    since_s: float


@dataclass(frozen=True, slots=True)
class _Measured:
    """What this journal adds to the gauges, which are sums over all journals."""

    lag_bytes: int = 0
    position_bytes: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class _Read:
    """What the bytes of a file from `start` to `end` tell."""

    identity: str | None
    start: int
    end: int
    logged: Sequence[Logged]
    gone: Sequence[Gone]
    rejected: Sequence[Rejected]

    def follows(self, file: JournalFile, offset: int) -> bool:
        """Whether it is what comes next in the file."""
        return self.identity == file.identity and self.start == offset and self.end <= file.size_bytes


class JournalFollower:
    """Reads the files of one journal and hands their entries to settlement. Several may share store and settlement."""

    def __init__(
        self,
        folder: Path,
        *,
        store: LedgerStore,
        settlement: Settlement,
        clock: Callable[[], int],
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._store = store
        self._settlement = settlement
        self._clock = clock
        self._monotonic = monotonic
        self._metrics = metrics
        self._measured = _Measured()
        self._stored: dict[str, int] | None = None
        self._offsets: dict[str, int] = {}
        self._tails: dict[int, _Tail] = {}
        self._ahead: _Read | None = None
        self.problem: str | None = None
        """Why the journal can't be read at the moment, if so."""
        self.read_past_us = 0
        """Every entry that Envoy had written before this instant is settled. Never steps back; 0 before the first
        round. What Envoy holds in memory still, for up to its flush interval, is not written yet."""

    async def run(self) -> None:
        """Follow the journal until cancelled, also through times when its folder can't be read."""
        while True:
            try:
                progressed = await self.read_once()
            except (OSError, StoreUnavailable) as error:
                if self.problem is None:
                    _log.error("journal_unreadable", folder=str(self.folder), error=str(error))
                self.problem = str(error)
                await asyncio.sleep(_RETRY_S)
                continue
            self.problem = None
            if not progressed:
                await asyncio.sleep(_POLL_S)

    async def read_once(self) -> bool:
        """Settle one chunk of every file that has grown; return whether there was any. Raises OSError, StoreUnavailable."""
        started_us = self._clock()
        if self._stored is None:
            self._stored = dict(await self._store.positions())
        files = journal_files(self.folder)
        self._meet(files, self._stored)
        progressed = False
        for file in files:
            progressed |= await self._read_chunk(file)
        await self._forget_gone(files)
        self._measure(files)
        read = [self._is_read(file) for file in files]
        if all(read):
            self.read_past_us = max(self.read_past_us, started_us)
        return progressed

    def settled_bytes(self, file: JournalFile) -> int:
        """Return how much of a file is settled."""
        return self._offsets.get(file.identity, 0) if file.identity is not None else 0

    async def forget(self, file: JournalFile) -> None:
        """Drop the stored position of a file that is about to be removed. Raises StoreUnavailable."""
        if file.identity is not None:
            await self._store.forget_positions([file.identity])

    def is_torn(self, file: JournalFile) -> bool:
        """Whether the file ends in part of a line whose rest will not come."""
        tail = self._tails.get(file.inode)
        if tail is None or tail.size_bytes != file.size_bytes:
            return False
        return self._monotonic() - tail.since_s >= _TORN_S and not self._has_line(file)

    def _meet(self, files: Sequence[JournalFile], stored: dict[str, int]) -> None:
        """Take up the position of files that are new here, and drop one that is past the end of its file."""
        for file in files:
            if file.identity is None:
                continue
            if file.identity not in self._offsets:
                self._offsets[file.identity] = confirmed(file, stored.pop(file.identity, 0))
            elif self._offsets[file.identity] > file.size_bytes:
                self._offsets[file.identity] = 0

    async def _read_chunk(self, file: JournalFile) -> bool:
        if file.identity is None or self._offsets[file.identity] >= file.size_bytes:
            return False
        offset = self._offsets[file.identity]
        ahead, self._ahead = self._ahead, None
        read = ahead if ahead is not None and ahead.follows(file, offset) else await self._read(file, offset)
        if read is None:
            return False
        self._settlement.void(item.request_id for item in read.gone)
        position = Position(file.identity, read.end)
        posting = self._settlement.post(read.logged, rejected=read.rejected, positions=(position,))
        if file.size_bytes - read.end < CHUNK_BYTES:
            await posting
        else:  # much is left: read on while the store writes
            _, self._ahead = await asyncio.gather(posting, self._read(file, read.end))
        self._offsets[file.identity] = position.offset
        return True

    async def _read(self, file: JournalFile, offset: int) -> _Read | None:
        chunk = whole_lines(file, offset)
        if not chunk:
            return None
        logged, gone, rejected = await self._parse(chunk)
        return _Read(file.identity, offset, offset + len(chunk), logged, gone, rejected)

    async def _parse(self, chunk: bytes) -> tuple[list[Logged], list[Gone], list[Rejected]]:
        logged: list[Logged] = []
        gone: list[Gone] = []
        rejected: list[Rejected] = []
        for number, line in enumerate(_lines(chunk)):
            if number % _LINES_A_TURN == 0:
                await asyncio.sleep(0)  # Checks come first
            try:
                item = from_journal(line)
            except UnreadableEntry as error:
                text = line[:_KEPT_TEXT].decode(errors="replace")
                rejected.append(Rejected(f"unreadable journal line ({error})", text, self._clock()))
                item = _after_torn(line)
            if isinstance(item, Logged):
                logged.append(item)
            elif item is not None:
                gone.append(item)
        return logged, gone, rejected

    async def _forget_gone(self, files: Sequence[JournalFile]) -> None:
        """Drop the positions of files that were here and are gone. Those never seen here may be another journal's."""
        gone = self._offsets.keys() - {file.identity for file in files}
        if gone:
            await self._store.forget_positions(sorted(gone))
            for identity in gone:
                del self._offsets[identity]
        for inode in self._tails.keys() - {file.inode for file in files}:
            del self._tails[inode]

    def _is_read(self, file: JournalFile) -> bool:
        """Whether all that the file held when it was listed is settled, but for a line that is torn for good."""
        if self.settled_bytes(file) >= file.size_bytes:
            self._tails.pop(file.inode, None)
            return True
        tail = self._tails.get(file.inode)
        if tail is None or tail.size_bytes != file.size_bytes:
            self._tails[file.inode] = _Tail(file.size_bytes, self._monotonic())
        return self.is_torn(file)

    def _has_line(self, file: JournalFile) -> bool:
        return file.identity is not None and whole_lines(file, self.settled_bytes(file)) != b""

    def _measure(self, files: Sequence[JournalFile]) -> None:
        offsets = [self.settled_bytes(file) for file in files]
        lag_bytes = sum(max(0, file.size_bytes - offset) for file, offset in zip(files, offsets, strict=True))
        measured, before = _Measured(lag_bytes, offsets[-1] if offsets else 0, len(files)), self._measured
        self._metrics.journal_lag.inc(measured.lag_bytes - before.lag_bytes)
        self._metrics.journal_position.inc(measured.position_bytes - before.position_bytes)
        self._metrics.journal_segments.inc(measured.files - before.files)
        self._measured = measured


def _lines(chunk: bytes) -> Iterator[bytes]:
    return (line for line in chunk.split(b"\n") if line.strip())


def _after_torn(line: bytes) -> Logged | Gone | None:
    """Return what is told at the end of a line that begins with a torn one.

    A disk that fills up, or a SIGKILL, can leave part of a line, and Envoy appends the next entry to that. It begins at
    a brace and ends the line; what begins inside it ends before the line does, so nothing else there is an entry.
    """
    start = len(line)
    for _ in range(_MAX_BRACES):
        start = line.rfind(b'{"', 0, start)
        if start <= 0:
            return None
        try:
            return from_journal(line[start:])
        except UnreadableEntry:
            continue
    return None
