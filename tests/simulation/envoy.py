"""Envoy's journal on real files, with what Envoy's buffer, its rotation and its death do to it."""

import os
from pathlib import Path
from random import Random


class JournalWriter:
    """Writes lines as Envoy does: buffered, in pieces, to the file that it has opened, whatever that is called now."""

    def __init__(self, folder: Path, random: Random) -> None:
        self._folder = folder
        self._random = random
        self._lines: list[tuple[bytes, str | None]] = []
        self._written_bytes = 0  # of the first line
        self._touched = 0
        self._fd = self._opened()

    def append(self, line: bytes, decision: str | None) -> None:
        """Put a line into the buffer. It is of a decision, or of none."""
        self._lines.append((line, decision))

    def flush(self, *, wholly: bool) -> list[str]:
        """Write all that is in the buffer, or some of it; return the decisions whose lines are now whole."""
        data = b"".join(line for line, _ in self._lines)[self._written_bytes :]
        size_bytes = len(data) if wholly else self._random.randint(0, len(data))
        if size_bytes:
            self._write(data[:size_bytes])
        return self._take(self._written_bytes + size_bytes)

    def die(self) -> list[str]:
        """Lose what is in the buffer, perhaps in the middle of a write; a new process takes over."""
        whole = self.flush(wholly=False)
        self._lines, self._written_bytes = [], 0
        self._reopen()
        return whole

    def reopen(self) -> list[str]:
        """Open the live file anew, after the line that was begun; return its decision if there was one."""
        whole = []
        if self._written_bytes:
            line = self._lines[0][0]
            self._write(line[self._written_bytes :])
            whole = self._take(len(line))
        self._reopen()
        return whole

    def _reopen(self) -> None:
        os.close(self._fd)
        self._fd = self._opened()

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def _opened(self) -> int:
        return os.open(self._folder / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _write(self, data: bytes) -> None:
        os.write(self._fd, data)
        self._touched += 1  # files are read in the order of their times, which must come from the seed too
        os.utime(self._fd, ns=(self._touched * 1_000_000_000, self._touched * 1_000_000_000))

    def _take(self, written_bytes: int) -> list[str]:
        whole = []
        while self._lines and len(self._lines[0][0]) <= written_bytes:
            line, decision = self._lines.pop(0)
            written_bytes -= len(line)
            if decision is not None:
                whole.append(decision)
        self._written_bytes = written_bytes
        return whole
