"""The journal: the access log that Envoy writes to files, followed for as long as it grows.

Every file of the folder whose name starts with `journal` is followed from its own offset, which the store keeps in the
same transaction as the charges. A file is known by its inode and its first line, which holds a decision id. So it keeps
its identity through a rename and a restart, and what is truncated, copied or put in its place is a new file. Rotation
needs no special case: the old file is read to its end under whatever name it has, the new one from its start. Where
anything is in doubt a file is read again from its start: an entry that was settled before has no effect.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from keytoll.envoy.entries import UnreadableEntry, from_journal
from keytoll.metrics import Metrics
from keytoll.settlement import Logged, Settlement
from keytoll.store.base import LedgerStore, Position, Rejected, StoreUnavailable

_log = structlog.get_logger(__name__)

_CHUNK_BYTES = 256 * 1024
"""Read at a time: about 200 entries, so that parsing them holds up no Check for more than a few milliseconds."""

_POLL_S = 0.05
_RETRY_S = 1.0
_MAX_LINE_BYTES = 1024 * 1024
"""Envoy's lines are far shorter, since every field in them is bounded; what is longer is garbage."""

_KEPT_TEXT = 4096


@dataclass(frozen=True, slots=True)
class _File:
    """A journal file as found: its path, its identity and its size."""

    path: Path
    identity: str
    size: int


class JournalFollower:
    """Reads the journal's files and hands their entries to settlement."""

    def __init__(
        self,
        folder: Path,
        *,
        store: LedgerStore,
        settlement: Settlement,
        clock: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._folder = folder
        self._store = store
        self._settlement = settlement
        self._clock = clock
        self._metrics = metrics
        self._offsets: dict[str, int] | None = None
        self.problem: str | None = None
        """Why the journal can't be read at the moment, if so."""

    async def run(self) -> None:
        """Follow the journal until cancelled, also through times when its folder can't be read."""
        while True:
            try:
                progressed = await self.read_once()
            except (OSError, StoreUnavailable) as error:
                if self.problem is None:
                    _log.error("journal_unreadable", error=str(error))
                self.problem = str(error)
                await asyncio.sleep(_RETRY_S)
                continue
            self.problem = None
            if not progressed:
                await asyncio.sleep(_POLL_S)

    async def read_once(self) -> bool:
        """Settle one chunk of every file that has grown; return whether there was any."""
        if self._offsets is None:
            self._offsets = dict(await self._store.positions())
        offsets, files = self._offsets, self._files()
        progressed = False
        for file in files:
            if offsets.get(file.identity, 0) < file.size:
                progressed |= await self._read_chunk(file, offsets)
        await self._forget_gone(files, offsets)
        self._measure(files, offsets)
        return progressed

    def _files(self) -> list[_File]:
        """Return the files that hold at least one whole line, oldest first."""
        found = []
        with os.scandir(self._folder) as entries:
            paths = [Path(e.path) for e in entries if e.name.startswith("journal") and e.is_file(follow_symlinks=False)]
        for path in paths:
            try:
                with path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    first = file.readline(_MAX_LINE_BYTES)
            except FileNotFoundError:  # renamed since it was listed; found under its new name next time
                continue
            if first.endswith(b"\n"):
                identity = f"{status.st_ino}-{hashlib.sha256(first).hexdigest()[:32]}"
                found.append((status.st_mtime_ns, _File(path, identity, status.st_size)))
        return [file for _, file in sorted(found, key=lambda pair: pair[0])]

    async def _read_chunk(self, file: _File, offsets: dict[str, int]) -> bool:
        offset = offsets.get(file.identity, 0)
        chunk = _whole_lines(file.path, offset)
        if not chunk:
            return False
        logged, rejected = self._parse(chunk)
        position = Position(file.identity, offset + len(chunk))
        await self._settlement.post(logged, rejected=rejected, positions=(position,))
        offsets[file.identity] = position.offset
        return True

    def _parse(self, chunk: bytes) -> tuple[list[Logged], list[Rejected]]:
        logged, rejected = [], []
        for line in _lines(chunk):
            try:
                item = from_journal(line)
            except UnreadableEntry as error:
                text = line[:_KEPT_TEXT].decode(errors="replace")
                rejected.append(Rejected(f"unreadable journal line ({error})", text, self._clock()))
            else:
                if item is not None:
                    logged.append(item)
        return logged, rejected

    async def _forget_gone(self, files: list[_File], offsets: dict[str, int]) -> None:
        gone = offsets.keys() - {file.identity for file in files}
        if gone:
            await self._store.forget_positions(sorted(gone))
            for identity in gone:
                del offsets[identity]

    def _measure(self, files: list[_File], offsets: dict[str, int]) -> None:
        self._metrics.journal_lag.set(sum(max(0, file.size - offsets.get(file.identity, 0)) for file in files))
        self._metrics.journal_position.set(offsets.get(files[-1].identity, 0) if files else 0)


def _whole_lines(path: Path, offset: int) -> bytes:
    """Return the next whole lines; a partial last one waits for its rest. Empty if there is none or the file is gone."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(_CHUNK_BYTES)
            while b"\n" not in chunk and len(chunk) < _MAX_LINE_BYTES and (more := file.read(_CHUNK_BYTES)):
                chunk += more
    except FileNotFoundError:
        return b""
    end = chunk.rfind(b"\n") + 1
    return chunk if not end and len(chunk) >= _MAX_LINE_BYTES else chunk[:end]


def _lines(chunk: bytes) -> Iterator[bytes]:
    return (line for line in chunk.split(b"\n") if line.strip())
