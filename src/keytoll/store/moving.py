"""Moving a whole store from SQLite to PostgreSQL: all of it or nothing, and compared row by row before it is kept."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

import asyncpg

from keytoll.store.base import StoreLocked, StoreUnavailable
from keytoll.store.postgres.database import connected, driver_errors
from keytoll.store.postgres.schema import migrate
from keytoll.store.sqlite import database as sqlite
from keytoll.store.sqlite import schema

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class CannotMove(Exception):
    """The store can't be moved. The message is one line for the operator; nothing was moved."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved: how many rows of each table, what all charges come to, and the ledger's currency if it has one."""

    rows: Mapping[str, int]
    charged_nano: int
    currency: str | None


async def move(source: Path, url: str) -> Moved:
    """Move everything into an empty database. No Keytoll may run on either; the source is left as it is.

    Raises CannotMove, StoreLocked, StoreTooNew and StoreUnavailable.
    """
    with _opened(source) as old:
        async with connected(url) as new:
            with driver_errors():
                await migrate(new)
                try:
                    async with new.transaction():
                        await _require_nobody(new)
                        return await _move(old, new)
                except asyncpg.DataError as error:
                    raise CannotMove(f"PostgreSQL can't keep a row: {error}") from error


async def _require_nobody(new: "Connection") -> None:
    """Raise StoreLocked if some Keytoll uses the database; until the transaction's end none can begin to."""
    await new.execute("LOCK TABLE replicas IN ACCESS EXCLUSIVE MODE")
    if replica := await new.fetchval("SELECT id FROM replicas WHERE expires_at > clock_timestamp()"):
        raise StoreLocked(f"the PostgreSQL store is in use by the Keytoll {replica}: stop it first")


async def _move(old: sqlite3.Connection, new: "Connection") -> Moved:
    for table in _TABLES:
        if await new.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):  # noqa: S608 - a table of ours
            raise CannotMove(f"the PostgreSQL store is not empty: {table} has rows")
    for table in _TABLES:
        columns = _columns(old, table)
        await new.copy_records_to_table(table, columns=columns, records=_rows(old, table, columns))
    for table in ("asked_once", "price_versions", "charges", "rejected"):
        await new.execute(_CONTINUE.format(table))
    await new.execute("UPDATE ledger_revision SET revision = (SELECT COALESCE(MAX(seq), 0) FROM charges)")
    counts = {table: await _compare(old, new, table) for table in _TABLES}
    return await _told(old, new, counts)


_TABLES = {
    "owners": "kind, name",
    "members": 'organization, "user"',
    "access_tokens": '"user"',
    "audit_events": "id",
    "keys": "id",
    "asked_once": "seq",
    "prices": "id",
    "price_versions": "seq",
    "charges": "seq",
    "archived_charges": "decision_id, kind",
    "open_unsettled": "open_seq",
    "totals": "subject, month",
    "usage": "owner, day, key_id, model",
    "rejected": "seq",
    "conflicts": "decision_id, fingerprint",
    "journal_positions": "file",
    "deployment": "name",
}
"""Every table, with what its rows are sorted by; one that refers to another comes after it."""

_CONTINUE = "SELECT setval(pg_get_serial_sequence('{0}', 'seq'), GREATEST(MAX(seq), 1), MAX(seq) IS NOT NULL) FROM {0}"
"""Number new rows after those that were moved."""


def _columns(old: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in old.execute("SELECT name FROM pragma_table_info(?)", [table])]


def _rows(old: sqlite3.Connection, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Return the rows of a table as PostgreSQL has them."""
    as_kept = [_AS_KEPT.get(column) for column in columns]
    for row in old.execute(_select(table, columns)):
        yield tuple(
            value if convert is None or value is None else convert(value)
            for value, convert in zip(row, as_kept, strict=True)
        )


def _select(table: str, columns: Sequence[str]) -> str:
    quoted = ", ".join(f'"{column}"' for column in columns)
    return f"SELECT {quoted} FROM {table} ORDER BY {_TABLES[table]}"  # noqa: S608 - of names of ours


_AS_KEPT: Mapping[str, Callable[[Any], Any]] = {
    "disabled": bool,
    "output_told": bool,
    "decision_id": UUID,
    "text": lambda text: text.replace("\0", "\\x00"),  # of a rejected entry: PostgreSQL keeps no NUL
}
"""What SQLite keeps in another way."""


async def _compare(old: sqlite3.Connection, new: "Connection", table: str) -> int:
    """Return how many rows the table has. Raises CannotMove unless both have the same ones."""
    columns = _columns(old, table)
    expected = _rows(old, table, columns)
    count = 0
    async for row in new.cursor(_select(table, columns), prefetch=1000):
        if tuple(row) != next(expected, None):
            raise CannotMove(f"{table}: row {count + 1} is not the same after it was moved")
        count += 1
    if next(expected, None) is not None:
        raise CannotMove(f"{table}: a row is missing after it was moved")
    return count


async def _told(old: sqlite3.Connection, new: "Connection", counts: Mapping[str, int]) -> Moved:
    """Return what was moved. Raises CannotMove unless the charges come to the same on both sides."""
    charged_nano = int(await new.fetchval("SELECT COALESCE(SUM(amount_nano), 0) FROM charges"))
    before_nano = sum(nano for (nano,) in old.execute("SELECT amount_nano FROM charges"))
    if charged_nano != before_nano:
        raise CannotMove("the charges don't come to the same after they were moved")
    return Moved(counts, charged_nano, await new.fetchval("SELECT value FROM deployment WHERE name = 'currency'"))


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Own the SQLite database and read it as it is at this instant."""
    path = path.resolve()  # so that links to one file lead to one lock
    if not path.is_file():
        raise CannotMove(f"there is no {path}")
    address = f"file:{quote(str(path))}?mode=ro"
    with (
        sqlite.owned(path),
        sqlite.driver_errors(),
        closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection,
    ):
        connection.execute("BEGIN")
        _check_schema(connection, path)
        yield connection


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    ((version,),) = connection.execute("PRAGMA user_version")
    schema.check_not_newer(version, path)
    if version < schema.newest():
        raise StoreUnavailable(f"{path} is of schema {version}, from an older Keytoll: let this one serve it once")
