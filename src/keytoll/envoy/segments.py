"""The journal's files: which there are, how each is known again, and its whole lines. Only reading; nothing is kept.

A file is known by its inode and its first line, which holds a decision id. So it keeps its identity through a rename
and a restart, and what is truncated, copied or put in its place is a new file.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LIVE = "journal.jsonl"
"""The file that Envoy writes."""

MAX_LINE_BYTES = 1024 * 1024
"""Envoy's lines are far shorter, since every field in them is bounded; what is longer is garbage."""

CHUNK_BYTES = 256 * 1024
"""Read at a time: about 250 entries, and so the most that is posted in one transaction."""

_SEGMENT = re.compile(r"journal-(\d{6,})\.jsonl")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_LISTINGS = 5


@dataclass(frozen=True, slots=True)
class JournalFile:
    """A journal file as found. It has no identity before its first line is whole."""

    path: Path
    inode: int
    identity: str | None
    size_bytes: int

    @property
    def is_live(self) -> bool:
        """Whether this is the file that Envoy opens when it starts or is told to reopen its logs."""
        return self.path.name == LIVE

    @property
    def is_segment(self) -> bool:
        """Whether Keytoll renamed it to what it is called now."""
        return _SEGMENT.fullmatch(self.path.name) is not None


def journal_files(folder: Path) -> list[JournalFile]:
    """Return the files of the folder whose name starts with `journal`, oldest first. Raises OSError.

    Compressed ones are left out: whoever compresses a journal has its lines to account for.
    """
    for _ in range(_LISTINGS):
        try:
            return _listed(folder)
        except FileNotFoundError:  # one was renamed since it was listed: list again, to have it under its new name
            if not folder.is_dir():
                raise
    raise OSError(f"the files of {folder} are renamed faster than they can be read")


def next_segment(folder: Path) -> Path:
    """Return the name for the next segment, above every one that is there. Raises OSError."""
    numbers = [int(match[1]) for name in os.listdir(folder) if (match := _SEGMENT.fullmatch(name))]  # noqa: PTH208
    return folder / f"journal-{max(numbers, default=0) + 1:06}.jsonl"


def confirmed(file: JournalFile, offset: int) -> int:
    """Return the offset if a line of the file ends there, else 0: a host that crashed may have lost the file's end."""
    if not 0 < offset <= file.size_bytes:
        return 0
    try:
        with file.path.open("rb") as opened:
            opened.seek(offset - 1)
            return offset if opened.read(1) == b"\n" else 0
    except FileNotFoundError:
        return 0


def whole_lines(file: JournalFile, offset: int) -> bytes:
    """Return the next whole lines; a partial last one waits for its rest.

    Empty if there is none, or if the path leads to another file by now.
    """
    try:
        with file.path.open("rb") as opened:
            if _identity(opened) != file.identity:
                return b""
            opened.seek(offset)
            chunk = _chunk(opened)
    except FileNotFoundError:
        return b""
    end = chunk.rfind(b"\n") + 1
    return chunk if not end and len(chunk) >= MAX_LINE_BYTES else chunk[:end]


def _chunk(opened: BinaryIO) -> bytes:
    chunk = opened.read(CHUNK_BYTES)
    while b"\n" not in chunk and len(chunk) < MAX_LINE_BYTES and (more := opened.read(CHUNK_BYTES)):
        chunk += more
    return chunk


def _listed(folder: Path) -> list[JournalFile]:
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if _is_journal(entry)]
    found = [_found(path) for path in paths]
    return [file for _, file in sorted(found, key=lambda pair: pair[0])]


def _is_journal(entry: os.DirEntry[str]) -> bool:
    ours = entry.name.startswith("journal") and not entry.name.endswith(_COMPRESSED)
    return ours and entry.is_file(follow_symlinks=False)


def _found(path: Path) -> tuple[int, JournalFile]:
    with path.open("rb") as opened:
        status = os.fstat(opened.fileno())
        return status.st_mtime_ns, JournalFile(path, status.st_ino, _identity(opened), status.st_size)


def _identity(opened: BinaryIO) -> str | None:
    first = opened.readline(MAX_LINE_BYTES)
    if not first.endswith(b"\n") and len(first) < MAX_LINE_BYTES:
        return None
    return f"{os.fstat(opened.fileno()).st_ino}-{hashlib.sha256(first).hexdigest()[:32]}"
