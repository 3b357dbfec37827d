"""Moving a store from SQLite to PostgreSQL: everything, or nothing."""

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from changes import keep_key, make_event
from postgres_server import PostgresServer
from store.builders import NOW_US, PRICES, altered, make_charge, make_key, make_unsettled

from keytoll.core.access import Networks
from keytoll.core.owners import AccessToken, Member, Organization
from keytoll.core.permissions import Role
from keytoll.core.quota import Quota, QuotaKind
from keytoll.core.usage import Group
from keytoll.store import moving
from keytoll.store.base import (
    AuditQuery,
    Batch,
    ChargeQuery,
    KeyQuery,
    Once,
    Position,
    Rejected,
    Store,
    StoreLocked,
    StoreTooNew,
    StoreUnavailable,
    UsageQuery,
)
from keytoll.store.moving import CannotMove, move
from keytoll.store.postgres import PostgresStore
from keytoll.store.sqlite import SqliteStore


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    """The URL of a PostgreSQL database without a table."""
    return await postgres.new_database(empty=True)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """An SQLite store with some of everything in it."""
    path = tmp_path / "keytoll.db"
    store = await SqliteStore.open(path)
    await fill(store)
    await store.close()
    return path


async def fill(store: Store) -> None:
    """Put a row in every table."""
    networks = Networks(("10.0.0.0/8",))
    key = replace(make_key(name="生产", quota=Quota(QuotaKind.TOTAL, 5)), disabled=True, allowed_networks=networks)
    await keep_key(store, key, Once(b"1" * 32, b"2" * 32, key.id, NOW_US))
    await keep_key(store, gone := make_key(owner="users/bob"))
    await store.delete_key(gone.id, deleted_at_us=NOW_US, event=make_event())
    made = Organization("acme", NOW_US, 0)
    await store.create_organization(made, admin=Member("alice", Role.ADMIN, NOW_US), event=make_event())
    await store.put_access_token("alice", AccessToken(b"3" * 32, "3333", NOW_US), event=make_event())
    await store.note_prices([("m", 0, PRICES)], NOW_US)
    await store.keep_currency("CNY")
    charges = [make_charge(2**40 + n, key_id=key.id) for n in range(2500)]
    late, open_ = make_charge(7), make_charge()
    await store.post(Batch(unsettled=[make_unsettled(late), make_unsettled(open_)]))
    rejected = [Rejected("malformed", '{"é', 1)]
    await store.post(Batch([*charges, late, altered(charges[0])], rejected, [Position("journal", 9)]))
    await store.post(Batch([make_charge(admitted_at_us=NOW_US - 1), make_charge()]))
    assert await store.archive_charges(before_us=NOW_US, name="2026-09-22", event=None) == 1


async def seen(store: Store) -> list[object]:
    """Return what a store tells."""
    every = UsageQuery("2026-01-01", "2026-12-31", group_by=frozenset(Group))
    keys = await store.list_keys(KeyQuery(), now_us=NOW_US, month="2026-09")
    return [
        [replace(stored, revision=0) for stored in keys],
        await store.list_charges(ChargeQuery(limit=10_000)),
        await store.list_unsettled(after=None, limit=9, settled_later=True),
        await store.count_unsettled(),
        await store.usage(every),
        await store.owner_totals("users/alice"),
        await store.list_events(AuditQuery()),
        await store.list_users(after=None, limit=9),
        await store.list_organizations(of="alice", after=None, limit=9),
        await store.person_by_token(b"3" * 32),
        await store.asked_once(b"1" * 32),
        await store.price_history("m"),
        await store.prices(PRICES.id),
        await store.positions(),
        await store.keep_currency("USD"),
    ]


async def test_everything_is_moved_and_goes_on_from_there(path: Path, url: str) -> None:
    before = hashlib.sha256(path.read_bytes()).digest()
    moved = await move(path, url)
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert all(moved.rows.values()), moved.rows
    assert (moved.rows["charges"], moved.currency) == (2504, "CNY")
    assert moved.charged_nano == sum(2**40 + n for n in range(2500)) + 7 + 1
    old, new = await SqliteStore.open(path), await PostgresStore.open(url)
    assert await seen(new) == await seen(old)
    last = await old.post(Batch())
    assert await new.post(Batch()) == last
    posted = await new.post(Batch([make_charge(1)], [Rejected("r", "t", 1)]))
    assert posted.revision > last.revision
    await keep_key(new, key := make_key(), Once(b"4" * 32, b"5" * 32, "k", NOW_US))
    assert await new.key_by_id(key.id) is not None
    await new.close()
    await old.close()


async def test_an_empty_store_is_moved_as_well(tmp_path: Path, url: str) -> None:
    await (await SqliteStore.open(tmp_path / "keytoll.db")).close()
    moved = await move(tmp_path / "keytoll.db", url)
    assert (sum(moved.rows.values()), moved.charged_nano, moved.currency) == (0, 0, None)
    store = await PostgresStore.open(url)
    assert len((await store.post(Batch([make_charge(1)]))).charges) == 1
    await store.close()


async def test_a_target_with_anything_in_it_is_refused_and_left_alone(path: Path, url: str) -> None:
    store = await PostgresStore.open(url)
    await store.note_prices([("other", 0, PRICES)], NOW_US)
    with pytest.raises(CannotMove, match="not empty: prices has rows"):
        await move(path, url)
    assert await store.list_charges(ChargeQuery()) == []
    await store.close()


async def test_what_is_not_the_same_afterwards_is_not_kept(
    path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy = "UPDATE totals SET spent_nano = spent_nano - 1 WHERE month <> ''"
    monkeypatch.setattr(moving, "_CONTINUE", f"{moving._CONTINUE}; {lossy}")
    with pytest.raises(CannotMove, match="totals: row 2 is not the same"):
        await move(path, url)
    store = await PostgresStore.open(url)
    assert await store.list_charges(ChargeQuery()) == []
    await store.close()


async def test_nothing_is_moved_while_a_keytoll_runs_on_either(path: Path, url: str) -> None:
    running = await SqliteStore.open(path)
    with pytest.raises(StoreLocked, match=r"keytoll\.db is in use"):
        await move(path, url)
    await running.close()
    store = await PostgresStore.open(url)
    member = (await store.join("gateway-1", lease_s=60, held=())).member
    with pytest.raises(StoreLocked, match="the PostgreSQL store is in use by the Keytoll gateway-1"):
        await move(path, url)
    await store.leave(member, held=())
    await store.close()
    await move(path, url)


async def test_a_database_that_is_not_there_or_of_another_schema_is_refused(path: Path, url: str) -> None:
    with pytest.raises(CannotMove, match=r"there is no .*none\.db"):
        await move(path.with_name("none.db"), url)
    assert not path.with_name("none.db.lock").exists()
    for version, error in ((999, StoreTooNew), (0, StoreUnavailable)):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(error, match=f"of schema {version}, from a"):
            await move(path, url)
