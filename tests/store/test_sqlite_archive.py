"""The archive of an SQLite store: a file."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from store.builders import make_charge
from store.test_archive import archived, posted

from keytoll.store.base import Batch, ChargeQuery
from keytoll.store.sqlite import SqliteStore, archive


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "keytoll.db")
    yield store
    await store.close()


def rows_in(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


async def test_the_archive_has_the_rows_whole_and_the_ledger_only_the_newer_one(
    sqlite: SqliteStore, tmp_path: Path
) -> None:
    old = await posted(sqlite)
    whole = rows_in(tmp_path / "keytoll.db", "SELECT * FROM charges ORDER BY seq")[:3]
    await archived(sqlite)
    assert rows_in(tmp_path / "archive-2026-09-22.db", "SELECT * FROM charges ORDER BY seq") == whole
    assert (tmp_path / "archive-2026-09-22.db").stat().st_mode & 0o777 == 0o600
    left = await sqlite.list_charges(ChargeQuery())
    assert len(left) == 1
    assert not {charge.id for charge in left} & {charge.id for charge in old}


async def test_the_revision_never_steps_back(sqlite: SqliteStore) -> None:
    """The newest row stays, however old it is: what is posted next must not look older than what was posted before."""
    first = await sqlite.post(Batch([make_charge(), make_charge()]))
    assert await archived(sqlite) == 1
    assert (await sqlite.post(Batch([make_charge()]))).revision > first.revision


async def test_a_crash_between_copying_and_removing_is_mended_by_doing_it_again(
    sqlite: SqliteStore, tmp_path: Path
) -> None:
    old = await posted(sqlite)
    ids = [str(charge.entry.decision_id) for charge in old]
    assert archive.copy(tmp_path / "keytoll.db", tmp_path / "archive-2026-09-22.db", ids[:2]) == 2
    assert len(await sqlite.list_charges(ChargeQuery())) == 4
    assert await archived(sqlite) == 3
    assert rows_in(tmp_path / "archive-2026-09-22.db", "SELECT COUNT(*) FROM charges") == [(3,)]


async def test_nobody_removes_a_row_that_is_not_archived(sqlite: SqliteStore, tmp_path: Path) -> None:
    await posted(sqlite)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        rows_in(tmp_path / "keytoll.db", "DELETE FROM charges")
