"""What only the PostgreSQL store promises: many writers, adversity, migrations, and what its errors mean."""

import asyncio
import random
import signal
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from changes import keep_key, make_event
from postgres_server import PostgresServer, postgres_server
from proxy import proxy_to
from store.builders import NOW_US, PRICES, make_charge, make_key, make_unsettled, unique

from keytoll.core.ledger import Kind
from keytoll.core.owners import Member, Organization, User
from keytoll.core.permissions import Role
from keytoll.core.quota import Totals
from keytoll.store.base import (
    Batch,
    ChargeQuery,
    LastAdmin,
    OwnerTaken,
    Position,
    Posted,
    StoreTooNew,
    StoreUnavailable,
)
from keytoll.store.postgres import PostgresStore
from keytoll.store.postgres.database import Bounds, connected

QUICK = Bounds(connect_s=2, statement_s=0.5, free_s=0.3)


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    """The URL of an empty database."""
    return await postgres.emptied_database()


@pytest.fixture
async def stores(url: str) -> AsyncIterator[list[PostgresStore]]:
    """Three stores in one database, as of three Keytolls."""
    opened = [await PostgresStore.open(url) for _ in range(3)]
    yield opened
    for store in opened:
        await store.close()


@asynccontextmanager
async def opened(url: str, bounds: Bounds = QUICK) -> AsyncIterator[PostgresStore]:
    """Open a store, and close it in the end."""
    store = await PostgresStore.open(url, bounds)
    try:
        yield store
    finally:
        await store.close()


async def rows_of(url: str, statement: str, *values: Any) -> list[Any]:
    """Run a statement past the store, as anyone might."""
    async with connected(url) as connection:
        return [tuple(row) for row in await connection.fetch(statement, *values)]


# --- many at once ---


async def test_stores_that_post_overlapping_batches_charge_everything_once(stores: list[PostgresStore]) -> None:
    charges = [make_charge(1) for _ in range(60)]
    cuts = [charges[n : n + 20] for n in range(0, 41, 2)]
    for number, cut in enumerate(cuts):
        random.Random(number).shuffle(cut)
    posting = [stores[number % 3].post(Batch(cut)) for number, cut in enumerate(cuts)]
    posted = await asyncio.gather(*posting)
    assert Counter(charge.id for result in posted for charge in result.charges) == Counter(c.id for c in charges)
    assert sum(result.repeated for result in posted) == 20 * len(cuts) - 60
    assert await stores[0].owner_totals("users/alice") == {"2026-09": 60}


async def test_stores_that_give_up_and_charge_one_decision_at_once_charge_it_once(stores: list[PostgresStore]) -> None:
    charges = [make_charge(1) for _ in range(40)]
    batches = [batch for c in charges for batch in (Batch(unsettled=[make_unsettled(c)]), Batch([c]), Batch([c]))]
    random.Random(1).shuffle(batches)
    posted = await asyncio.gather(*(stores[number % 3].post(batch) for number, batch in enumerate(batches)))
    assert sum(len(result.charges) for result in posted) == sum(result.repeated for result in posted) == 40
    given_up = {row.entry.decision_id for result in posted for row in result.unsettled}
    listed = await stores[0].list_charges(ChargeQuery())
    corrected = {charge.entry.decision_id for charge in listed if charge.kind is Kind.CORRECTION}
    assert corrected == given_up != set()
    assert len(listed) == 40
    assert await stores[0].count_unsettled() == 0


async def test_revisions_are_in_the_order_in_which_totals_grew_whoever_posted(stores: list[PostgresStore]) -> None:
    """So a cache that is told out of order can tell the newer totals."""
    key, other = make_key(), make_key()
    for each in (key, other):
        await keep_key(stores[0], each)
    posted: list[Posted] = []

    async def post(store: PostgresStore, number: int) -> None:
        for turn in range(15):
            one = [make_charge(1, key_id=key.id, owner=unique("users/u"))]
            two = [make_charge(1, key_id=other.id, owner=unique("users/u"))]
            posted.append(await store.post(Batch(one + two if (turn + number) % 2 else two)))

    await asyncio.gather(*(post(store, number) for number, store in enumerate(stores)))
    posted.sort(key=lambda result: result.revision)
    assert len({result.revision for result in posted}) == len(posted)
    for each in (key, other):
        told = [result.totals[each.id].lifetime_nano for result in posted if each.id in result.totals]
        assert told == list(range(1, len(told) + 1))
        found = await stores[0].key_by_id(each.id)
        assert found is not None
        assert (found.totals.lifetime_nano, found.revision) == (told[-1], posted[-1].revision)


async def test_of_stores_that_sign_up_one_owner_at_once_exactly_one_succeeds(stores: list[PostgresStore]) -> None:
    for _ in range(10):
        user = User(unique("u"), NOW_US)
        creating = [store.create_user(user, event=make_event()) for store in stores * 2]
        results = await asyncio.gather(*creating, return_exceptions=True)
        assert Counter(type(result) for result in results) == {OwnerTaken: 5, type(None): 1}
        keys = [make_key(owner=unique("users/n")) for _ in range(3)]
        keys = [replace(key, owner=keys[0].owner) for key in keys]
        await asyncio.gather(*(keep_key(store, key) for store, key in zip(stores, keys, strict=True)))


async def test_of_admins_that_are_removed_by_several_stores_at_once_one_stays(stores: list[PostgresStore]) -> None:
    names = [unique("u") for _ in range(6)]
    for name in names:
        await stores[0].create_user(User(name, NOW_US), event=make_event())
    for _ in range(5):
        organization = unique("o")
        made = Organization(organization, NOW_US, 0)
        await stores[0].create_organization(made, admin=None, event=make_event())
        for name in names:
            await put(stores[0], organization, name, Role.ADMIN)
        leaving: list[Awaitable[object]] = [
            put(stores[number % 3], organization, name, Role.MEMBER)
            if number % 2
            else stores[number % 3].remove_member(organization, name, event=make_event(), keep_an_admin=True)
            for number, name in enumerate(names)
        ]
        results = await asyncio.gather(*leaving, return_exceptions=True)
        assert [type(result) for result in results].count(LastAdmin) == 1
        members = await stores[0].list_members(organization, after=None, limit=9)
        assert [member.role for member in members].count(Role.ADMIN) == 1


async def put(store: PostgresStore, organization: str, user: str, role: Role) -> None:
    """Put a member, and keep an admin."""
    await store.put_member(organization, Member(user, role, NOW_US), event=make_event(), keep_an_admin=True)


async def test_a_post_that_is_the_victim_of_a_deadlock_is_done_again(url: str) -> None:
    keys = [unique("key_"), unique("key_")]
    async with opened(url) as store, connected(url) as other:
        await store.post(Batch([make_charge(1, key_id=key) for key in keys]))
        lock = "SELECT 1 FROM totals WHERE subject = $1 FOR UPDATE"
        async with other.transaction():
            await other.execute(lock, keys[1])
            posting = asyncio.create_task(store.post(Batch([make_charge(1, key_id=key) for key in keys])))
            await waits_for_a_lock(url, "INSERT INTO totals")
            await other.execute(lock, keys[0])  # which the post has, and the server must choose
        posted = await posting
    assert {totals.lifetime_nano for totals in posted.totals.values()} == {2}


async def waits_for_a_lock(url: str, statement: str) -> None:
    """Return once a statement that begins so waits for a lock."""
    ask = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND ltrim(query, E'\\n') LIKE $1"
    async with asyncio.timeout(10), connected(url) as connection:
        while not await connection.fetch(ask, f"{statement}%"):
            pass


# --- what is kept ---


@pytest.mark.parametrize("table", ["charges", "price_versions", "audit_events"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET id = id", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
async def test_the_ledger_the_history_of_prices_and_the_audit_log_are_append_only_for_anyone(
    url: str, table: str, statement: str
) -> None:
    async with opened(url) as store:
        await store.post(Batch([make_charge(5)]))
        await store.note_prices([("m", 1, PRICES)], NOW_US)
        await keep_key(store, make_key())
    statement = statement.format(table)
    if table == "price_versions":
        statement = statement.replace("id = id", "model = model")
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await rows_of(url, statement)


async def test_a_correction_needs_the_row_that_it_corrects(url: str) -> None:
    """So a decision that was charged can't be charged once more as a correction, whoever writes it."""
    async with opened(url) as store:
        await store.post(Batch([make_charge(5)]))
    columns = await rows_of(url, "SELECT column_name FROM information_schema.columns WHERE table_name = 'charges'")
    names = ", ".join(name for (name,) in columns if name not in ("seq", "id", "kind", "refers_to"))
    copy = f"INSERT INTO charges (id, kind, refers_to, {names}) SELECT 'copy', $1, $2, {names} FROM charges"
    for kind, refers_to, error in (
        ("charge", None, asyncpg.UniqueViolationError),
        ("correction", "uns_0", asyncpg.ForeignKeyViolationError),
        ("correction", None, asyncpg.CheckViolationError),
    ):
        with pytest.raises(error):
            await rows_of(url, copy, kind, refers_to)


# --- opening ---


async def test_stores_that_are_first_at_once_migrate_once(postgres: PostgresServer) -> None:
    url = await postgres.new_database(empty=True)
    stores = await asyncio.gather(*(PostgresStore.open(url) for _ in range(5)))
    for store in stores:
        await store.post(Batch([make_charge(1)]))
        await store.close()
    assert await rows_of(url, "SELECT version, oldest FROM schema_version") == [(2, 1)]
    assert await rows_of(url, "SELECT COUNT(*) FROM charges") == [(5,)]


async def test_an_older_keytoll_goes_on_and_starts_beside_a_newer_one_that_only_added(postgres: PostgresServer) -> None:
    url = await postgres.new_database()
    async with opened(url) as running:
        await keep_key(running, key := make_key())
        await rows_of(url, "ALTER TABLE keys ADD COLUMN colour text")
        await rows_of(url, "ALTER TABLE charges ADD COLUMN weight bigint NOT NULL DEFAULT 0")
        await rows_of(url, "UPDATE schema_version SET version = 999")
        async with opened(url) as started:
            for store in (running, started):
                await keep_key(store, make_key())
                await store.post(Batch([make_charge(1, key_id=key.id)]))
                assert (await store.key_by_id(key.id)) is not None
    assert await rows_of(url, "SELECT version FROM schema_version") == [(999,)]


async def test_a_database_that_this_keytoll_would_misunderstand_is_refused(postgres: PostgresServer) -> None:
    url = await postgres.new_database()
    await rows_of(url, "UPDATE schema_version SET version = 999, oldest = 998")
    with pytest.raises(StoreTooNew, match="schema 999, from a newer Keytoll; this one knows 2"):
        await PostgresStore.open(url)


def _unusable(server: PostgresServer) -> Iterator[tuple[str, str]]:
    good = server.url("keytoll_none")
    yield good, 'database "keytoll_none" does not exist'
    yield server.url("postgres").replace(server.password, "s3cr3t"), "password authentication failed"
    yield server.url("postgres", port=1), "it can't be reached"
    for wrong in ("postgresql://u:s3cr3t@h:port/d", "postgresql://u:p/s3cr3t@h/d", "postgresql://u:s3cr3t@[h/d"):
        yield wrong, "must be like postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    yield "postgresql://u:s3cr3t@127.0.0.1:1/d?sslmode=s3cr3t", "must be like postgresql://"


async def test_what_stands_in_the_way_is_told_and_no_part_of_the_password(postgres: PostgresServer) -> None:
    for url, message in _unusable(postgres):
        with pytest.raises(StoreUnavailable) as caught:
            await PostgresStore.open(url, QUICK)
        assert message in str(caught.value), url
        told = "".join(traceback.format_exception(caught.value))
        assert "s3cr3t" not in told
        assert postgres.password not in told


# --- adversity ---


@pytest.mark.parametrize("sent_bytes", [1, 200, 500, 1500, 3000, 5000, 6000, 7000, 8000, 9000, 10_000])
async def test_a_post_whose_connection_is_cut_is_there_in_full_or_not_at_all(
    postgres: PostgresServer, url: str, sent_bytes: int
) -> None:
    async with proxy_to(postgres.port) as proxy, opened(proxied(url, proxy.port)) as store:
        await store.post(Batch([make_charge(1)]))
        proxy.cut_after(sent_bytes)
        batch = Batch([make_charge(1) for _ in range(5)], positions=[Position("journal", 1)])
        told = await outcome(store.post(batch))
        proxy.cut_after(10**9)
        count = len(await store.list_charges(ChargeQuery()))
        assert count in (1, 6)
        assert await store.positions() == ({"journal": 1} if count == 6 else {})
        assert await store.owner_totals("users/alice") == {"2026-09": count}
        assert told is None or isinstance(told, StoreUnavailable)
        again = await store.post(batch)
        assert (len(again.charges), again.repeated) == ((0, 5) if count == 6 else (5, 0))


def proxied(url: str, port: int) -> str:
    """Return the URL by way of a proxy."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{port}").geturl()


async def outcome(call: Awaitable[object]) -> BaseException | None:
    """Return what a call raises, None for nothing."""
    (result,) = await asyncio.gather(call, return_exceptions=True)
    return result if isinstance(result, BaseException) else None


async def test_a_server_that_falls_silent_is_an_outage_that_ends(postgres: PostgresServer, url: str) -> None:
    async with proxy_to(postgres.port) as proxy, opened(proxied(url, proxy.port)) as store:
        await store.post(Batch([charge := make_charge(1)]))
        proxy.fall_silent()
        for call in (store.positions(), store.key_by_id("key_x"), store.post(Batch([make_charge(1)]))):
            with pytest.raises(StoreUnavailable, match="in time"):
                await call
        proxy.speak()
        proxy.cut()
        assert (await store.post(Batch([charge]))).repeated == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "killed"])
async def test_a_server_that_goes_and_comes_back_has_what_was_acknowledged_once(number: signal.Signals) -> None:
    with postgres_server() as server:
        async with opened(await server.new_database()) as store:
            key = make_key()
            await keep_key(store, key)
            charges = [make_charge(1, key_id=key.id) for _ in range(200)]
            done = asyncio.Event()

            async def post_all() -> list[str]:
                """Post one by one, and again where the answer was an outage, as settlement does."""
                acknowledged = []
                for position, charge in enumerate(charges, start=1):
                    while await outcome(store.post(Batch([charge], positions=[Position("j", position)]))) is not None:
                        done.set()
                    acknowledged.append(charge.id)
                    if position == 50:
                        await asyncio.to_thread(server.stop, number)
                        starting.append(asyncio.create_task(start_later()))
                return acknowledged

            async def start_later() -> None:
                await done.wait()  # it was seen to be away
                await asyncio.to_thread(server.start)

            starting: list[asyncio.Task[None]] = []
            async with asyncio.timeout(60):
                acknowledged = await post_all()
            await asyncio.gather(*starting)
            found = await store.key_by_id(key.id)
            assert found is not None
            assert found.totals == Totals(200, {"2026-09": 200})
            assert {charge.id for charge in await store.list_charges(ChargeQuery(limit=1000))} == set(acknowledged)
            assert await store.positions() == {"j": 200}


async def test_lists_and_changes_that_take_long_leave_connections_for_checks(url: str) -> None:
    bounds = replace(QUICK, statement_s=20, free_s=5)
    async with opened(url, bounds) as store, connected(url) as other, AsyncExitStack() as stack:
        key = make_key()
        await keep_key(store, key)
        await stack.enter_async_context(other.transaction())
        await other.execute("LOCK TABLE charges, owners IN ACCESS EXCLUSIVE MODE")
        lists = [asyncio.create_task(store.list_charges(ChargeQuery())) for _ in range(3)]
        posts = [asyncio.create_task(store.post(Batch([make_charge(1)]))) for _ in range(20)]
        changes = [asyncio.create_task(keep_key(store, make_key())) for _ in range(20)]
        await waits_for_a_lock(url, "SELECT deleted_at_us")
        await waits_for_a_lock(url, "SELECT")
        async with asyncio.timeout(5):
            for _ in range(20):
                assert await store.key_by_digest(key.digest) is not None
        await stack.aclose()
        await asyncio.gather(*lists, *posts, *changes)


async def test_more_callers_than_connections_are_an_outage_after_a_bounded_wait(url: str) -> None:
    bounds = Bounds(lookups=2, statement_s=20, free_s=0.2)
    async with opened(url, bounds) as store, connected(url) as other:
        async with other.transaction():
            await other.execute("LOCK TABLE keys IN ACCESS EXCLUSIVE MODE")
            blocked = [asyncio.create_task(store.key_by_id("key_x")) for _ in range(2)]
            await waits_for_a_lock(url, "SELECT")
            with pytest.raises(StoreUnavailable, match="in time"):
                await asyncio.gather(*(store.key_by_id("key_x") for _ in range(3)))
        assert await asyncio.gather(*blocked) == [None, None]
        assert await store.key_by_id("key_x") is None


async def test_a_lock_held_by_another_is_an_outage_while_it_lasts(url: str) -> None:
    charge = make_charge(1)
    async with opened(url) as store, connected(url) as other:
        async with other.transaction():
            await other.execute("LOCK TABLE totals IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable, match="statement timeout") as caught:
                await store.post(Batch([charge]))
            assert isinstance(caught.value.__cause__, asyncpg.QueryCanceledError)
            await store.positions()
        assert (await store.post(Batch([charge]))).charges == (charge,)


async def test_a_mistake_in_a_statement_is_no_outage(url: str) -> None:
    async with opened(url) as store:
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await store._write("NOT SQL", {})
        await store.positions()
