"""Copies of the database: one of a running Keytoll's, and one put in its place again.

A plain copy of the file won't do: while Keytoll runs, the newest commits are in the file beside it (`-wal`), and one that
was left there by another database would spoil a restored one.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from keytoll.store.base import StoreUnavailable
from keytoll.store.sqlite.database import owned

_BESIDE = ("-wal", "-shm")
_BUSY_S = 30.0


def back_up(database: Path, target: Path) -> int:
    """Copy the database as it is at one instant, to a new file that only its owner can read. Returns the ledger's rows.

    Keytoll may run, and isn't held up. Raises StoreUnavailable, and FileExistsError if there is a file already.
    """
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    if target.exists():
        raise FileExistsError(target)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with _errors(f"can't copy {database} to {target}"), _opened(database) as source, _opened(fresh) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # then it is one file
            count = _sound(copy)
        _synced(fresh)
        fresh.rename(target)
    finally:
        fresh.unlink(missing_ok=True)
    _synced(target.parent)
    return count


def restore(backup: Path, database: Path) -> int:
    """Put a copy of a backup in the database's place, whose files are kept as `*.before`. Returns the ledger's rows.

    Raises StoreLocked while a Keytoll runs, StoreUnavailable, and FileExistsError if an earlier `*.before` is there still.
    """
    before = database.with_name(f"{database.name}.before")
    with owned(database):
        if before.exists():
            raise FileExistsError(before)
        fresh = database.with_name(f"{database.name}.restored")
        fresh.unlink(missing_ok=True)
        count = back_up(backup, fresh)
        # Their names go with the database's, so that they are found again if the old one is put back.
        for suffix in ("", *_BESIDE):
            old = Path(f"{database}{suffix}")
            if old.exists() and old.stat().st_size:  # an empty one was made by this command's own lock
                old.rename(f"{before}{suffix}")
        fresh.rename(database)
        _synced(database.parent)
    return count


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that is there."""
    # Not read-only: nobody could then make the index that a database with WAL needs if its Keytoll doesn't run.
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S)) as connection:
        yield connection


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{what}: {error}") from error


def _sound(copy: sqlite3.Connection) -> int:
    (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise StoreUnavailable(f"the copy is damaged: {found}")
    (count,) = copy.execute("SELECT count(*) FROM charges").fetchone()
    return int(count)


def _synced(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
