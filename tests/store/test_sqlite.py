"""What only the SQLite store promises: ownership of its file, migrations, plans, and what its errors mean."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from changes import keep_key, make_event
from store.builders import NOW_US, PRICES, altered, make_charge, make_key, make_unsettled

from keytoll.core.audit import Action
from keytoll.core.keys import KeyStatus
from keytoll.core.quota import QuotaKind, Totals
from keytoll.core.usage import Group
from keytoll.store.base import (
    AuditQuery,
    Batch,
    ChargeQuery,
    KeyQuery,
    KeySort,
    Once,
    Position,
    Rejected,
    StoreLocked,
    StoreTooNew,
    StoreUnavailable,
    UsageQuery,
)
from keytoll.store.sql import queries as shared
from keytoll.store.sql import store as sql_store
from keytoll.store.sqlite import SqliteStore, database, queries


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keytoll.db"


@pytest.fixture
async def sqlite(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, busy_timeout_s=0.01)
    yield store
    await store.close()


def _rows(path: Path, statement: str, values: dict[str, Any] | None = None) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement, values or {}).fetchall()


# --- ownership ---


async def test_a_second_keytoll_is_refused_with_one_line_until_the_first_has_closed(path: Path) -> None:
    first = await SqliteStore.open(path)
    with pytest.raises(StoreLocked, match=r"keytoll\.db is in use by another Keytoll") as caught:
        await SqliteStore.open(path)
    assert "\n" not in str(caught.value)
    await first.close()
    await (await SqliteStore.open(path)).close()


async def test_a_link_to_the_file_of_another_keytoll_is_refused_as_well(path: Path, sqlite: SqliteStore) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(StoreLocked):
        await SqliteStore.open(link)


async def test_a_backup_can_be_taken_while_keytoll_runs(path: Path, sqlite: SqliteStore, tmp_path: Path) -> None:
    await sqlite.post(Batch([make_charge()]))
    copy = tmp_path / "backup.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    assert _rows(copy, "SELECT COUNT(*) FROM charges") == [(1,)]


async def test_only_its_user_can_read_the_files(path: Path, sqlite: SqliteStore) -> None:
    await sqlite.post(Batch([make_charge()]))
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["keytoll.db", "keytoll.db-shm", "keytoll.db-wal", "keytoll.db.lock"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


# --- opening ---


async def test_a_missing_folder_is_an_outage_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="missing/keytoll"):
        await SqliteStore.open(tmp_path / "missing" / "keytoll.db")


async def test_a_file_that_is_no_database_is_an_outage_and_is_left_alone(path: Path) -> None:
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(StoreUnavailable) as caught:
        await SqliteStore.open(path)
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert path.read_bytes() == b"no database " * 1000


async def test_a_database_of_a_newer_keytoll_is_refused_and_left_alone(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(StoreTooNew, match="schema 999"):
        await SqliteStore.open(path)
    assert _rows(path, "PRAGMA user_version") == [(999,)]


async def test_a_database_is_migrated_once_and_keeps_its_content(path: Path) -> None:
    charge = make_charge(5)
    for _ in range(2):
        store = await SqliteStore.open(path)
        await store.post(Batch([charge]))
        await store.close()
    reopened = await SqliteStore.open(path)
    assert await reopened.list_charges(ChargeQuery()) == [charge]
    assert await reopened.owner_totals("users/alice") == {"2026-09": 5}
    await reopened.close()


async def test_a_sqlite_without_strict_tables_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OLDEST_SQLITE", (99, 0))
    with pytest.raises(StoreUnavailable, match=r"SQLite 99\.0 or newer"):
        await SqliteStore.open(path)
    assert not path.exists()


async def test_every_table_is_strict_and_the_writer_survives_power_loss(path: Path, sqlite: SqliteStore) -> None:
    tables = _rows(
        path, "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%'"
    )
    assert {strict for _, strict in tables} == {1}
    assert len(tables) == 17
    writer = sqlite._writer._connection  # nothing outside can tell how a connection is set
    assert list(map(tuple, await writer.execute_fetchall("PRAGMA synchronous"))) == [(2,)]
    assert list(map(tuple, await writer.execute_fetchall("PRAGMA journal_mode"))) == [("wal",)]


# --- what is kept ---


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE charges SET amount_nano = 0",
        "DELETE FROM charges",
        "UPDATE price_versions SET from_us = 0",
        "DELETE FROM price_versions",
        "UPDATE audit_events SET actor = 'nobody'",
        "DELETE FROM audit_events",
    ],
)
async def test_the_ledger_the_history_of_prices_and_the_audit_log_are_append_only_for_anyone(
    path: Path, sqlite: SqliteStore, statement: str
) -> None:
    await sqlite.post(Batch([make_charge(5)]))
    await sqlite.note_prices([("m", 1, PRICES)], NOW_US)
    await keep_key(sqlite, make_key())
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        _rows(path, statement)


async def test_a_correction_refers_to_the_row_that_it_corrects(path: Path, sqlite: SqliteStore) -> None:
    charge = make_charge(5)
    gave_up = make_unsettled(charge)
    await sqlite.post(Batch(unsettled=[gave_up]))
    (correction,) = (await sqlite.post(Batch([charge, other := make_charge(7)]))).charges[:1]
    kept = _rows(path, "SELECT id, kind, refers_to, amount_nano FROM charges ORDER BY seq")
    assert kept == [
        (gave_up.id, "unsettled", None, 0),
        (correction.id, "correction", gave_up.id, 5),
        (other.id, "charge", None, 7),
    ]


@pytest.mark.parametrize("kind", ["unsettled", "charge", "correction"])
async def test_no_decision_can_get_a_second_row_of_its_sort_whoever_writes_it(
    path: Path, sqlite: SqliteStore, kind: str
) -> None:
    await sqlite.post(Batch(unsettled=[make_unsettled(charge := make_charge(0))]))
    await sqlite.post(Batch([charge]))
    columns = [row[1] for row in _rows(path, "PRAGMA table_info(charges)") if row[1] not in ("seq", "id", "kind")]
    names = ", ".join(columns)
    copy = f"INSERT INTO charges (id, kind, {names}) SELECT 'copy', '{kind}', {names} FROM charges"
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed: index 'charges_decision'"):
        _rows(path, f"{copy} WHERE (kind = 'correction') = ('{kind}' = 'correction') LIMIT 1")


async def test_a_conflict_is_kept_once_however_often_it_comes(path: Path, sqlite: SqliteStore) -> None:
    charge = make_charge()
    conflict = altered(charge)
    await sqlite.post(Batch([charge, conflict, conflict]))
    assert (await sqlite.post(Batch([conflict]))).conflicts == (conflict,)
    ((decision_id, fingerprint, entry, at_us),) = _rows(path, "SELECT * FROM conflicts")
    assert (decision_id, fingerprint) == (str(charge.entry.decision_id), conflict.entry.fingerprint)
    assert json.loads(entry)["attempts"] == conflict.entry.attempts
    assert at_us == conflict.settled_at_us


async def test_a_rejected_entry_is_kept_as_it_came(path: Path, sqlite: SqliteStore) -> None:
    await sqlite.post(Batch(rejected=[Rejected("malformed", '{"é', 1), Rejected("malformed", "\udcff", 2)]))
    kept = _rows(path, "SELECT reason, text, at_us FROM rejected ORDER BY seq")
    assert kept == [("malformed", '{"é', 1), ("malformed", "\\udcff", 2)]


async def test_a_deleted_key_stays_as_a_row(path: Path, sqlite: SqliteStore) -> None:
    key = make_key()
    await keep_key(sqlite, key)
    await sqlite.delete_key(key.id, deleted_at_us=NOW_US, event=make_event())
    assert _rows(path, "SELECT id, deleted_at_us FROM keys") == [(key.id, NOW_US)]


# --- plans ---

_unsettled = shared.list_unsettled
_ALL, _OWNER, _KEY = ChargeQuery(), ChargeQuery(owner="o"), ChargeQuery(key_id="k")
_PAGE = ChargeQuery(owner="o", since_us=1, after="c")
_KEYS, _OWNED = KeyQuery(), KeyQuery(owner="o", after="k")
_KEY_PLANS = {
    "keys": (queries.list_keys(_KEYS), "keys USING INDEX sqlite_autoindex_keys_1"),
    "keys, page": (queries.list_keys(KeyQuery(after="k")), "sqlite_autoindex_keys_1 (id>?)"),
    "keys of an owner": (queries.list_keys(_OWNED), "keys_of_owner (owner=? AND id>?)"),
    "keys of an owner, newest": (queries.list_keys(replace(_OWNED, descending=True)), "(owner=? AND id<?)"),
} | {
    f"keys{' of an owner' if owner else ''} by {sort.value}{', last first' if descending else ''}": (
        queries.list_keys(KeyQuery(owner, "t", status, QuotaKind.TOTAL, sort, descending, after="k")),
        f"keys{'_of_owner' if owner else ''}_by_{index} ({'owner=? AND ' if owner else ''}({column},id)",
    )
    for sort, index, column in (
        (KeySort.NAME, "name", "folded_name"),
        (KeySort.EXPIRES_AT, "end", "ends_at_us"),
        (KeySort.LAST_USED_AT, "use", "used_at_us"),
    )
    for owner in ("o", None)
    for descending, status in ((False, KeyStatus.SPENT), (True, KeyStatus.ACTIVE))
}
_OWNER_PLANS = {
    "owner": (queries.OWNER, "PRIMARY KEY (kind=? AND name=?)"),
    "user": (queries.USER, "PRIMARY KEY (kind=? AND name=?)"),
    "users": (queries.LIST_USERS, "PRIMARY KEY (kind=? AND name>?)"),
    "organizations": (shared.LIST_ORGANIZATIONS, "PRIMARY KEY (kind=? AND name>?)"),
    "organizations of a person": (
        shared.LIST_ORGANIZATIONS_OF_USER,
        "members_of_user (user=? AND organization>?)",
    ),
    "token": (queries.PERSON_BY_TOKEN, "access_tokens USING INDEX sqlite_autoindex_access_tokens_2 (digest=?)"),
    "roles": (queries.PERSON_BY_TOKEN, "members USING INDEX members_of_user (user=?)"),
    "members": (shared.LIST_MEMBERS, "PRIMARY KEY (organization=? AND user>?)"),
    "admins": (queries.TWO_ADMINS, "PRIMARY KEY (organization=?)"),
    "everywhere": (shared.REMOVE_FROM_ALL, "members_of_user (user=?)"),
    "keys to delete": (queries.DELETE_KEYS_OF_OWNER, "keys USING INDEX keys"),
}
_EVENT_PAGE = AuditQuery(since_us=1, until_us=2, after="e")
_EVENT_PLANS = {
    "events": (shared.list_events(AuditQuery()), "audit_events USING INDEX audit_events_at"),
    "events, page": (shared.list_events(_EVENT_PAGE), "audit_events_at (at_us>? AND"),
    "events of an owner": (shared.list_events(replace(_EVENT_PAGE, owner="o")), "audit_events_of_owner (owner=?"),
    "events of an actor": (shared.list_events(replace(_EVENT_PAGE, actor="a")), "audit_events_of_actor (actor=?"),
    "events of a sort": (
        shared.list_events(replace(_EVENT_PAGE, action=Action.KEY_EDIT)),
        "audit_events_of_action (action=?",
    ),
}
_USAGE_PLANS = {
    "usage": (shared.usage(UsageQuery("a", "b")), "usage_of_day (day>? AND day<?)"),
    "usage of an owner": (shared.usage(UsageQuery("a", "b", "o")), "PRIMARY KEY (owner=? AND day>? AND day<?)"),
    "usage by day": (
        shared.usage(UsageQuery("a", "b", "o", frozenset({Group.DAY}))),
        "PRIMARY KEY (owner=? AND day>? AND day<?)",
    ),
    "usage of groups": (queries.USAGE_OF_GROUPS, "PRIMARY KEY (owner=? AND day=? AND key_id=? AND model=?)"),
}
_PLANS = {
    "charges of a model": (shared.list_charges(ChargeQuery(model="m", after="c")), "charges_of_model (model=?"),
    "charges of an owner and a model": (
        shared.list_charges(ChargeQuery(owner="o", model="m", until_us=9)),
        "charges_of_owner_and_model (owner=? AND model=?",
    ),
    "charges": (shared.list_charges(_ALL), "charges USING INDEX charges_admitted"),
    "charges, page": (shared.list_charges(ChargeQuery(after="c")), "charges_admitted (admitted_at_us<?)"),
    "charges since": (shared.list_charges(ChargeQuery(since_us=1)), "charges_admitted (admitted_at_us>?)"),
    "charges of an owner": (shared.list_charges(_OWNER), "charges_of_owner (owner=?)"),
    "charges of an owner, page": (shared.list_charges(_PAGE), "charges_of_owner (owner=? AND admitted_at_us>? AND"),
    "charges of a key": (shared.list_charges(_KEY), "charges_of_key (key_id=?)"),
    "key by name": (shared.KEY_NAMED, "keys_name (owner=? AND name=?)"),
    "names of keys": (queries.KEY_NAMES, "keys USING INDEX sqlite_autoindex_keys_1 (id=?)"),
    **_KEY_PLANS,
    **_OWNER_PLANS,
    **_EVENT_PLANS,
    **_USAGE_PLANS,
    "key by digest": (queries.KEY_BY_DIGEST, "keys USING INDEX sqlite_autoindex_keys_2 (digest=?)"),
    "key by old digest": (queries.KEY_BY_DIGEST, "keys USING INDEX keys_old_digest (old_digest=?)"),
    "asked once": (shared.ASKED, "asked_once USING INDEX sqlite_autoindex_asked_once_1 (id=?)"),
    "asked long ago": (shared.FORGET_ASKED, "asked_once_at (at_us<?)"),
    "asked too much": (shared.FORGET_MOST_ASKED, "asked_once USING INTEGER PRIMARY KEY (rowid<?)"),
    "row by id": (shared.CHARGE, "charges USING INDEX sqlite_autoindex_charges_1 (id=?)"),
    "open": (
        _unsettled(after=None, settled_later=False),
        "open_unsettled USING COVERING INDEX open_unsettled_admitted",
    ),
    "open, page": (_unsettled(after="c", settled_later=False), "open_unsettled_admitted (opened_at_us<?)"),
    "unsettled": (_unsettled(after=None, settled_later=True), "charges USING INDEX charges_unsettled"),
    "unsettled, page": (_unsettled(after="c", settled_later=True), "charges_unsettled (admitted_at_us<?)"),
    "open, counted": (shared.COUNT_UNSETTLED, "SCAN open_unsettled"),
    "rows of decisions": (queries.ROWS_OF_DECISIONS, "charges_decision (decision_id=?)"),
    "settled decisions": (queries.SETTLED, "COVERING INDEX charges_decision (decision_id=?)"),
    "history of prices": (shared.PRICE_HISTORY, "price_versions_of_model (model=?)"),
    "prices noted last": (queries.NOTE_PRICES, "price_versions_of_model (model=? AND from_us=?)"),
    "totals": (queries.TOTALS, "PRIMARY KEY (subject=? AND month=?)"),
    "totals of an owner": (shared.OWNER_TOTALS, "PRIMARY KEY (subject=?)"),
}


@pytest.mark.parametrize("case", _PLANS)
async def test_a_query_uses_its_index_and_sorts_nothing(path: Path, sqlite: SqliteStore, case: str) -> None:
    statement, index = _PLANS[case]
    values = dict.fromkeys(re.findall(r":(\w+)", statement), "[]")
    plan = _rows(path, f"EXPLAIN QUERY PLAN {statement}", values)
    details = [row[3] for row in plan]
    assert any(index in detail for detail in details), details
    assert not any("TEMP B-TREE" in detail for detail in details), details


async def test_of_what_was_asked_for_only_the_newest_are_kept(
    path: Path, sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_store, "MAX_ONCE", 3)
    for number in range(10):
        key = make_key()
        await keep_key(sqlite, key, Once(number.to_bytes(32), b"f" * 32, key.id, 0))
    assert [row[0][-1] for row in _rows(path, "SELECT id FROM asked_once ORDER BY seq")] == [7, 8, 9]


# --- outages ---


async def test_a_full_disk_is_an_outage_that_posts_nothing_and_ends_when_there_is_room(sqlite: SqliteStore) -> None:
    key = make_key()
    await keep_key(sqlite, key)
    writer = sqlite._writer._connection  # the only way to make this database full and not the whole disk
    await writer.execute_fetchall("PRAGMA max_page_count = 1")  # as few as it has now
    charges = [make_charge(1, key_id=key.id) for _ in range(1000)]
    batch = Batch(charges, positions=[Position("journal", 1)])
    with pytest.raises(StoreUnavailable, match="full") as caught:
        await sqlite.post(batch)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    stored = await sqlite.key_by_id(key.id)
    assert stored is not None
    assert (stored.totals, stored.revision, await sqlite.positions()) == (Totals(), 0, {})
    await writer.execute_fetchall("PRAGMA max_page_count = 1000000")
    assert len((await sqlite.post(batch)).charges) == 1000


async def test_a_read_only_database_is_an_outage_for_writes_alone(sqlite: SqliteStore) -> None:
    await sqlite._writer._connection.execute_fetchall("PRAGMA query_only = ON")  # file modes don't stop root
    with pytest.raises(StoreUnavailable, match="readonly"):
        await keep_key(sqlite, make_key())
    await sqlite.positions()


async def test_a_lock_held_by_another_process_is_an_outage_while_it_lasts(path: Path, sqlite: SqliteStore) -> None:
    charge = make_charge()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await sqlite.post(Batch([charge]))
        await sqlite.positions()
    assert (await sqlite.post(Batch([charge]))).charges == (charge,)


async def test_a_corrupt_file_is_an_outage(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.post(Batch([make_charge() for _ in range(200)]))
    await store.close()
    header, content = path.read_bytes()[:4096], path.read_bytes()[4096:]
    path.write_bytes(header + b"\xff" * len(content))
    with pytest.raises(StoreUnavailable, match="malformed"):
        await _list_charges(path)


async def _list_charges(path: Path) -> None:
    store = await SqliteStore.open(path)
    try:
        await store.list_charges(ChargeQuery())
    finally:
        await store.close()


async def test_a_mistake_in_a_statement_is_no_outage(sqlite: SqliteStore) -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax"):
        await sqlite._write("NOT SQL", {})
    await sqlite.positions()


async def test_a_transaction_that_is_itself_cancelled_is_rolled_back_and_the_next_one_runs(sqlite: SqliteStore) -> None:
    """As when the event loop shuts down and cancels every task."""
    for turns in range(10):
        charge = make_charge()
        caller = asyncio.create_task(sqlite.post(Batch([charge])))
        for _ in range(turns):
            await sqlite.positions()
        for task in list(sqlite._writer.underway.tasks):
            task.cancel()
        await asyncio.wait([caller])
        again = await sqlite.post(Batch([charge]))
        assert len(again.charges) + again.repeated == 1
    assert await sqlite.owner_totals("users/alice") == {"2026-09": 10}


# --- crashes ---


@pytest.mark.parametrize("batches", [1, 5, 20])
async def test_a_kill_in_the_middle_of_posting_leaves_rows_totals_and_position_in_step(
    path: Path, batches: int
) -> None:
    """What was acknowledged is there, and whatever is there is a whole number of batches."""
    acknowledged = await asyncio.to_thread(_post_until_killed, path, batches)
    store = await SqliteStore.open(path)
    position = (await store.positions())["journal"]
    charges = await store.list_charges(ChargeQuery(limit=1_000_000))
    assert position >= acknowledged >= batches
    assert len(charges) == 50 * position
    assert await store.owner_totals("users/alice") == {"2026-09": 50 * position}
    await store.close()
    assert _rows(path, "PRAGMA integrity_check") == [("ok",)]


def _post_until_killed(path: Path, batches: int) -> int:
    """Let a child post batches of 50, kill it after some, and return how many it said were done."""
    script = Path(__file__).with_name("post_for_ever.py")
    with subprocess.Popen([sys.executable, script, path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(batches)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
    assert child.returncode == -signal.SIGKILL
    return max(int(line) for line in lines if line.endswith("\n"))
