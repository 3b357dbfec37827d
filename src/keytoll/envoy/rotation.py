"""Rotation of the journal, by size: rename, have Envoy reopen its logs, remove what is settled.

A segment goes only when all of this holds: it is settled to its last byte; Envoy was told to reopen its logs after the
segment got its name, and said yes; there is a new journal; and neither has changed for longer than Envoy takes to do
what it said (it reopens at its next flush). So an entry can't be lost to it, whichever of both is killed when. A restart
of Keytoll takes nothing over: it has Envoy reopen once more before it removes what it finds.

What others rotated, as logrotate does to `journal.jsonl.1`, is read to its end but never removed: who renamed it has a
use for it and counts on it, to compress it or to keep a number of them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from keytoll.envoy.admin import AdminUnavailable
from keytoll.envoy.journal import JournalFollower
from keytoll.envoy.segments import JournalFile, journal_files, next_segment
from keytoll.store.base import StoreUnavailable

_log = structlog.get_logger(__name__)

_STEP_S = 1.0
_GRACE_S = 15.0
"""More than the 10 s after which an Envoy flushes whose flush interval nobody set."""


class LogWriter(Protocol):
    """Who writes the journal: Envoy, by its admin interface."""

    async def reopen_logs(self) -> None:
        """Have the journal opened anew at the next flush. Raises AdminUnavailable."""


@dataclass(slots=True)
class _Segment:
    """What is known of a segment: the size it has kept since when, and when Envoy had surely been told to leave it.

    Times are seconds of a monotonic clock.
    """

    size_bytes: int
    unchanged_s: float
    left_s: float | None = None
    torn_logged: bool = False


class JournalRotation:
    """Keeps one journal from growing for ever. `follower` reads it, `writer` writes it."""

    def __init__(
        self,
        *,
        follower: JournalFollower,
        writer: LogWriter,
        segment_bytes: int,
        grace_s: float = _GRACE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder: Path = follower.folder
        self._follower = follower
        self._writer = writer
        self._segment_bytes = segment_bytes
        self._grace_s = grace_s
        self._monotonic = monotonic
        self._segments: dict[int, _Segment] = {}
        self.problem: str | None = None
        """What stands in the way of rotating, if anything does."""
        self.renamed = 0
        """How many times the journal was renamed since the start."""

    async def run(self) -> None:
        """Rotate whenever it is due, until cancelled."""
        while True:
            try:
                await self.step()
            except (OSError, AdminUnavailable, StoreUnavailable) as error:
                if self.problem is None:
                    _log.warning("journal_not_rotated", folder=str(self._folder), error=str(error))
                self.problem = str(error)
            else:
                self.problem = None
            await asyncio.sleep(_STEP_S)

    async def step(self) -> None:
        """Do once what is due. Raises OSError, AdminUnavailable or StoreUnavailable; the next goes on."""
        files = self._files()
        await self._remove_settled(files)
        if self._all_left():
            self._rename(files)
        if not self._all_left():
            await self._reopen()

    def _files(self) -> list[JournalFile]:
        """List the journal's files and note what changed. What is new here was not left by Envoy, for all we know."""
        files, now_s = journal_files(self._folder), self._monotonic()
        segments = {file.inode: file.size_bytes for file in files if file.is_segment}
        for inode in self._segments.keys() - segments:
            del self._segments[inode]
        for inode, size_bytes in segments.items():
            segment = self._segments.setdefault(inode, _Segment(size_bytes, now_s))
            if segment.size_bytes != size_bytes:
                segment.size_bytes, segment.unchanged_s = size_bytes, now_s
        return files

    def _all_left(self) -> bool:
        return all(segment.left_s is not None for segment in self._segments.values())

    def _rename(self, files: Sequence[JournalFile]) -> None:
        live = next((file for file in files if file.is_live), None)
        if live is None or live.size_bytes < self._segment_bytes:
            return
        segment = next_segment(self._folder)
        live.path.rename(segment)
        self.renamed += 1
        self._files()
        _log.info("journal_renamed", segment=str(segment), size_bytes=live.size_bytes)

    async def _reopen(self) -> None:
        """Have Envoy leave every segment that is there now."""
        renamed = list(self._segments.values())
        await self._writer.reopen_logs()
        now_s = self._monotonic()
        for segment in renamed:
            segment.left_s = now_s if segment.left_s is None else segment.left_s

    async def _remove_settled(self, files: Sequence[JournalFile]) -> None:
        if not any(file.is_live for file in files):
            return  # Envoy has not reopened yet, or can't
        for file in files:
            if file.is_segment and self._is_at_rest(self._segments[file.inode]):
                await self._remove(file, self._segments[file.inode])

    def _is_at_rest(self, segment: _Segment) -> bool:
        now_s = self._monotonic()
        left = segment.left_s is not None and now_s - segment.left_s >= self._grace_s
        return left and now_s - segment.unchanged_s >= self._grace_s

    async def _remove(self, file: JournalFile, segment: _Segment) -> None:
        if self._follower.settled_bytes(file) == file.size_bytes:
            # Its position first: a crash in between has it read again, to no effect. The other order would leave a
            # position that nobody ever drops.
            await self._follower.forget(file)
            if file.path.stat().st_size == file.size_bytes:
                file.path.unlink()
                del self._segments[file.inode]  # the inode may be another file's soon
                _log.info("journal_segment_removed", segment=str(file.path), size_bytes=file.size_bytes)
        elif not segment.torn_logged and self._follower.is_torn(file):
            segment.torn_logged = True
            unread_bytes = file.size_bytes - self._follower.settled_bytes(file)
            _log.error("journal_segment_torn", segment=str(file.path), unread_bytes=unread_bytes)
