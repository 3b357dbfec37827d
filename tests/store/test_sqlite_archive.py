"""The archive: old rows leave the ledger, and nothing else changes."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from changes import make_event
from store.builders import NOW_US, make_charge, make_unsettled

from keytoll.core.audit import Action
from keytoll.core.ledger import Charge, correction_id
from keytoll.core.usage import Group
from keytoll.store.base import AuditQuery, Batch, ChargeQuery, UsageQuery
from keytoll.store.sqlite import SqliteStore, archive

DAY_US = 86_400_000_000
LATER_US = NOW_US + DAY_US


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "keytoll.db")
    yield store
    await store.close()


async def archived(store: SqliteStore) -> int:
    """Archive what was admitted before LATER_US, and return how many rows that were."""
    rows = 0
    while some := await store.archive_charges(
        before_us=LATER_US, name="2026-09-22", event=None if rows else make_event(Action.CHARGES_ARCHIVE)
    ):
        rows += some
    return rows


async def posted(store: SqliteStore, number: int = 3) -> list[Charge]:
    """Post old charges, and a newer one."""
    old = [make_charge() for _ in range(number)]
    await store.post(Batch([*old, make_charge(admitted_at_us=LATER_US)]))
    return old


def rows_in(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


async def test_what_was_spent_and_used_stays_as_it_was(sqlite: SqliteStore) -> None:
    await posted(sqlite)
    everything = UsageQuery("2000-01-01", "2100-01-01", None, frozenset(Group), limit=100)

    async def told() -> object:
        return await sqlite.owner_totals("users/alice"), await sqlite.usage(everything)

    before = await told()
    assert await archived(sqlite) == 3
    assert await told() == before
    assert await archived(sqlite) == 0


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


async def test_a_late_repeat_of_an_archived_entry_has_no_effect_and_another_entry_is_a_conflict(
    sqlite: SqliteStore,
) -> None:
    old = await posted(sqlite)
    await archived(sqlite)
    totals = await sqlite.owner_totals("users/alice")
    again = await sqlite.post(Batch([old[0]]))
    assert (again.charges, again.repeated, again.conflicts) == ((), 1, ())
    other = replace(old[1], entry=replace(old[1].entry, status=201))
    assert (await sqlite.post(Batch([other]))).conflicts == (other,)
    assert await sqlite.settled([charge.entry.decision_id for charge in old]) == {
        charge.entry.decision_id for charge in old
    }
    assert await sqlite.owner_totals("users/alice") == totals


async def test_an_unsettled_row_stays_until_its_correction_has_come_and_then_both_go(sqlite: SqliteStore) -> None:
    late = make_charge()
    given_up = make_unsettled(late)
    await sqlite.post(Batch(unsettled=[given_up]))
    await posted(sqlite)
    assert await archived(sqlite) == 3
    assert await sqlite.count_unsettled() == 1
    corrected = await sqlite.post(Batch([late]))
    assert [charge.id for charge in corrected.charges] == [correction_id(given_up.entry)]
    await sqlite.post(Batch([make_charge(admitted_at_us=LATER_US)]))
    assert await archived(sqlite) == 2
    assert await sqlite.charge(given_up.id) is None


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


async def test_it_is_told_once_in_the_audit_log(sqlite: SqliteStore) -> None:
    await posted(sqlite)
    await archived(sqlite)
    assert [event.action for event in await sqlite.list_events(AuditQuery())] == [Action.CHARGES_ARCHIVE]


async def test_nobody_removes_a_row_that_is_not_archived(sqlite: SqliteStore, tmp_path: Path) -> None:
    await posted(sqlite)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        rows_in(tmp_path / "keytoll.db", "DELETE FROM charges")
