"""What a store does for replicas that share it: leases, the feed of changes, and grants, on the real server."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from changes import keep_key, make_event
from postgres_server import PostgresServer
from store.builders import make_charge, make_key, make_unsettled

from keytoll.core.allowance import Ask, Outcome
from keytoll.core.keys import Key
from keytoll.core.quota import Quota, QuotaKind
from keytoll.store.base import Batch, Granted, KeyMonth
from keytoll.store.postgres import PostgresStore
from keytoll.store.postgres.database import connected
from keytoll.store.replicas import Lapsed, Member, Superseded, Word

MONTH = "2026-09"
LEASE_S = 30.0
ONE = Ask(holds=0, held_nano=0, least_nano=10, wanted_nano=10)


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    """The URL of an empty database."""
    return await postgres.emptied_database()


@pytest.fixture
async def stores(url: str) -> AsyncIterator[list[PostgresStore]]:
    """Three stores in one database, as of three replicas."""
    opened = [await PostgresStore.open(url) for _ in range(3)]
    yield opened
    for store in opened:
        await store.close()


async def joined(stores: list[PostgresStore], *, lease_s: float = LEASE_S) -> list[Member]:
    """Have each store's replica join."""
    return [(await store.join(f"replica-{n}", lease_s=lease_s, held=())).member for n, store in enumerate(stores)]


async def kept_key(store: PostgresStore, limit_nano: int | None = 1000, kind: QuotaKind = QuotaKind.MONTHLY) -> Key:
    """Keep a new key."""
    quota = Quota() if limit_nano is None else Quota(kind, limit_nano)
    key = make_key(quota=quota)
    await keep_key(store, key)
    return key


async def grants_of(url: str) -> dict[tuple[str, str, str], int]:
    """Return all grants, by key, month and replica."""
    async with connected(url) as connection:
        found = await connection.fetch("SELECT key_id, month, replica, granted_nano FROM grants")
    return {(row[0], row[1], row[2]): row[3] for row in found}


async def age(url: str, statement: str) -> None:
    """Let time pass for rows, by changing them past the store."""
    async with connected(url) as connection:
        await connection.execute(statement)


# --- leases ---


async def test_a_replica_that_starts_anew_supersedes_itself(stores: list[PostgresStore]) -> None:
    (old, *_), new = await joined(stores), (await stores[1].join("replica-0", lease_s=LEASE_S, held=())).member
    assert new.epoch == old.epoch + 1
    with pytest.raises(Superseded, match="replica-0"):
        await stores[0].renew(old, seen=0, lease_s=LEASE_S)
    assert (await stores[1].renew(new, seen=0, lease_s=LEASE_S)).replicas == 3


async def test_a_lapsed_lease_is_not_renewed_and_asks_for_nothing(stores: list[PostgresStore], url: str) -> None:
    member, *_ = await joined(stores)
    key = await kept_key(stores[0])
    await age(url, "UPDATE replicas SET expires_at = clock_timestamp() WHERE id = 'replica-0'")
    with pytest.raises(Lapsed):
        await stores[0].renew(member, seen=0, lease_s=LEASE_S)
    with pytest.raises(Lapsed):
        await stores[0].ask(member, KeyMonth(key.id, MONTH), ONE)
    with pytest.raises(Lapsed):
        await stores[0].renew(Member("nobody", 1), seen=0, lease_s=LEASE_S)
    assert await grants_of(url) == {}


async def test_who_left_is_waited_for_by_nobody(stores: list[PostgresStore]) -> None:
    member, other, _ = await joined(stores)
    key = await kept_key(stores[0])
    await stores[2].leave(Member("replica-2", 1), held=())
    await stores[0].delete_key(key.id, deleted_at_us=1, event=make_event())
    seq = await stores[0].last_change()
    assert [behind.replica for behind in await stores[0].behind(seq)] == ["replica-0", "replica-1"]
    await stores[0].leave(member, held=())
    await stores[1].leave(replace_epoch(other), held=())  # an older process of the id has nothing to say
    assert [behind.replica for behind in await stores[0].behind(seq)] == ["replica-1"]


def replace_epoch(member: Member) -> Member:
    """Return who the replica was before it started anew."""
    return member._replace(epoch=member.epoch - 1)


# --- the feed of changes ---


async def test_changes_are_told_in_order_until_they_were_seen(stores: list[PostgresStore]) -> None:
    one, other, _ = await joined(stores)
    first, second = await kept_key(stores[0]), await kept_key(stores[0])
    assert await stores[0].last_change() == 0  # a new key is unknown to everybody
    await stores[0].update_key(replace(first, disabled=True), event=make_event())
    rotated = replace(second, digest=b"r" * 32, old_digest=second.digest, old_valid_until_us=9)
    await stores[0].rotate_key(rotated, event=make_event())
    await stores[0].delete_key(first.id, deleted_at_us=1, event=make_event())
    news = await stores[1].renew(other, seen=0, lease_s=LEASE_S)
    assert [change.key_id for change in news.changes] == [first.id, second.id, first.id]
    assert [set(change.digests) for change in news.changes] == [{first.digest}, set(rotated.digests), {first.digest}]
    assert news.seq == await stores[0].last_change()
    assert {behind.replica for behind in await stores[0].behind(news.seq)} == {"replica-0", "replica-1", "replica-2"}
    again = await stores[1].renew(other, seen=news.seq, lease_s=LEASE_S)
    assert (again.seq, again.changes) == (news.seq, [])
    await stores[0].renew(one, seen=news.seq, lease_s=LEASE_S)
    (left,) = await stores[0].behind(news.seq)
    assert left.replica == "replica-2"
    assert 0 < left.for_s <= LEASE_S + 1


async def test_an_owner_s_deletion_tells_of_each_key(stores: list[PostgresStore]) -> None:
    member, *_ = await joined(stores)
    keys = [await kept_key(stores[0]) for _ in range(3)]
    await stores[0].delete_owner(keys[0].owner, deleted_at_us=1, event=make_event(), key_event=lambda _: make_event())
    news = await stores[0].renew(member, seen=0, lease_s=LEASE_S)
    assert {change.key_id for change in news.changes} == {key.id for key in keys if key.owner == keys[0].owner}


async def test_charges_are_no_change_of_a_key(stores: list[PostgresStore]) -> None:
    key = await kept_key(stores[0])
    await stores[0].post(Batch([make_charge(5, key_id=key.id)]))
    assert await stores[0].last_change() == 0


async def test_who_joins_begins_with_the_last_change(stores: list[PostgresStore]) -> None:
    key = await kept_key(stores[0])
    await stores[0].delete_key(key.id, deleted_at_us=1, event=make_event())
    new = await stores[0].join("replica-0", lease_s=LEASE_S, held=())
    assert new.seen == await stores[0].last_change()
    assert (await stores[0].renew(new.member, seen=new.seen, lease_s=LEASE_S)).changes == []


async def test_many_who_change_at_once_number_their_changes_as_they_commit(stores: list[PostgresStore]) -> None:
    member, *_ = await joined(stores)
    keys = [await kept_key(stores[0]) for _ in range(30)]
    seen: list[str] = []

    async def follow() -> None:
        seq = 0
        while len(seen) < len(keys):
            news = await stores[2].renew(member._replace(replica="replica-2"), seen=seq, lease_s=LEASE_S)
            seen.extend(change.key_id for change in news.changes)
            seq = news.seq

    changes = [stores[n % 2].update_key(replace(key, disabled=True), event=make_event()) for n, key in enumerate(keys)]
    await asyncio.wait_for(asyncio.gather(follow(), *changes), 20)
    assert sorted(seen) == sorted(key.id for key in keys)


# --- grants ---


async def test_what_is_spent_and_granted_never_passes_the_limit(stores: list[PostgresStore], url: str) -> None:
    members, key = await joined(stores), await kept_key(stores[0])
    of = KeyMonth(key.id, MONTH)
    answers = await asyncio.gather(*(stores[n % 3].ask(members[n % 3], of, replace_least(ONE, 100)) for n in range(30)))
    granted = sum((await grants_of(url)).values())
    assert granted <= 1000
    assert {answer.outcome for answer in answers if answer} <= {Outcome.GRANTED, Outcome.HELD}
    newest = {answer.granted.version for answer in answers if answer}
    assert len(newest) == 30


def replace_least(ask: Ask, nano: int) -> Ask:
    """Return the ask with another need."""
    return ask._replace(least_nano=nano, wanted_nano=nano)


async def test_a_charge_takes_from_its_replica_s_grant(stores: list[PostgresStore], url: str) -> None:
    (member, other, _), key = await joined(stores), await kept_key(stores[0])
    of = KeyMonth(key.id, MONTH)
    first = await stores[0].ask(member, of, replace_least(ONE, 300))
    assert first is not None
    assert first.granted.granted_nano == 300
    charge = make_charge(120, key_id=key.id)
    posted = await stores[0].post(Batch([charge]))
    assert posted.grants[of].granted_nano == 180
    assert posted.grants[of].version > first.granted.version
    again = await stores[0].post(Batch([charge]))  # its answer may have been lost: it is told what there is
    assert again.grants[of].granted_nano == 180
    elsewhere = await stores[1].post(Batch([make_charge(50, key_id=key.id)]))  # a replica without a grant of it
    assert elsewhere.grants == {}
    rest = await stores[1].ask(other, of, replace_least(ONE, 650))
    assert rest is not None
    assert (rest.granted.granted_nano, rest.totals.lifetime_nano) == (650, 170)
    assert sum((await grants_of(url)).values()) + 170 == 1000
    dear = await stores[0].post(Batch([make_charge(500, key_id=key.id)]))
    assert dear.grants[of].granted_nano == 0  # more than was held


async def test_an_unsettled_row_tells_what_is_left_and_takes_nothing(stores: list[PostgresStore]) -> None:
    (member, *_), key = await joined(stores), await kept_key(stores[0])
    of = KeyMonth(key.id, MONTH)
    await stores[0].ask(member, of, replace_least(ONE, 300))
    posted = await stores[0].post(Batch(unsettled=[make_unsettled(make_charge(key_id=key.id))]))
    assert posted.grants[of].granted_nano == 300


async def test_who_is_alone_gets_the_last_request_and_others_are_asked_for_what_they_have(
    stores: list[PostgresStore],
) -> None:
    (one, other, _), key = await joined(stores), await kept_key(stores[0], limit_nano=100)
    of = KeyMonth(key.id, MONTH)
    words: list[tuple[Word, str]] = []
    heard = asyncio.create_task(stores[2].listen(lambda *word: words.append(word)))
    while (Word.CHANGE, "") not in words:
        await asyncio.sleep(0.01)
    first = await stores[0].ask(one, of, replace_least(ONE, 60))
    assert first is not None
    assert first.granted.granted_nano == 60
    held = await stores[1].ask(other, of, replace_least(ONE, 50))
    assert held is not None
    assert (held.outcome, held.granted.granted_nano) == (Outcome.HELD, 0)
    left = await stores[0].give_back(one, [(of, 60)], tell=True)
    assert left[of].granted_nano == 0
    assert left[of].version > first.granted.version
    last = await stores[1].ask(other, of, replace_least(ONE, 500))
    assert last is not None
    assert (last.outcome, last.granted.granted_nano, last.whole) == (Outcome.GRANTED, 100, True)
    while len(words) < 3:
        await asyncio.sleep(0.01)
    assert words[1:] == [(Word.RECALL, key.id), (Word.RETURNED, key.id)]
    heard.cancel()


async def test_what_is_given_back_while_more_is_asked_for_is_no_longer_the_asker_s_whole(
    stores: list[PostgresStore], url: str
) -> None:
    """Another may be granted it next, as the whole of what is left: two would run beyond the limit."""
    one, other, _ = await joined(stores)
    key = await kept_key(stores[0], 5)
    of = KeyMonth(key.id, MONTH)
    last = await stores[0].ask(one, of, ONE)
    assert last is not None
    assert (last.granted.granted_nano, last.whole) == (5, True)
    async with connected(url) as giving_back, connected(url) as looking, giving_back.transaction():
        await giving_back.execute("UPDATE grants SET granted_nano = 0, version = nextval('grant_versions')")
        asking = asyncio.create_task(stores[0].ask(one, of, ONE))
        while not await looking.fetchval("SELECT COUNT(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    answer = await asking
    assert answer is not None
    assert (answer.granted.granted_nano, answer.whole) == (0, False)
    next_ = await stores[1].ask(other, of, ONE)
    assert next_ is not None
    assert (next_.granted.granted_nano, next_.whole) == (5, True)


async def test_a_spent_key_says_so_with_its_totals(stores: list[PostgresStore]) -> None:
    (member, *_), key = await joined(stores), await kept_key(stores[0], limit_nano=100)
    await stores[1].post(Batch([make_charge(100, key_id=key.id)]))
    answer = await stores[0].ask(member, KeyMonth(key.id, MONTH), ONE)
    assert answer is not None
    assert (answer.outcome, answer.totals.by_month) == (Outcome.SPENT, {MONTH: 100})
    assert answer.revision > 0


async def test_a_total_quota_counts_every_month_and_a_monthly_one_its_own(stores: list[PostgresStore]) -> None:
    member, *_ = await joined(stores)
    total = await kept_key(stores[0], limit_nano=100, kind=QuotaKind.TOTAL)
    monthly = await kept_key(stores[0], limit_nano=100)
    for key, expected in ((total, Outcome.HELD), (monthly, Outcome.GRANTED)):
        await stores[0].ask(member, KeyMonth(key.id, "2026-08"), replace_least(ONE, 60))
        answer = await stores[0].ask(member, KeyMonth(key.id, MONTH), replace_least(ONE, 60))
        assert answer is not None
        assert answer.outcome is expected


async def test_nothing_is_asked_for_keys_that_are_gone_or_without_a_limit(stores: list[PostgresStore]) -> None:
    (member, *_), endless = await joined(stores), await kept_key(stores[0], limit_nano=None)
    assert await stores[0].ask(member, KeyMonth(endless.id, MONTH), ONE) is None
    assert await stores[0].ask(member, KeyMonth("key_gone", MONTH), ONE) is None


async def test_of_what_a_replica_was_granted_its_holds_keep_their_part(stores: list[PostgresStore], url: str) -> None:
    (member, *_), keys = await joined(stores), [await kept_key(stores[0]) for _ in range(4)]
    some, more, endless, unused = (KeyMonth(key.id, MONTH) for key in keys)
    for of in (some, more, endless, unused):
        await stores[0].ask(member, of, replace_least(ONE, 300))
    held = [(some, 70), (more, 900), (endless, None), (KeyMonth("key_unlimited", MONTH), 5)]
    new = await stores[1].join("replica-0", lease_s=LEASE_S, held=held)
    kept = {some: 70, more: 300, endless: 300}
    assert {of: granted.granted_nano for of, granted in new.grants.items()} == kept
    assert await grants_of(url) == {(*of, "replica-0"): nano for of, nano in kept.items()}
    await stores[0].leave(member, held=())  # an older process has nothing to say
    assert len(await grants_of(url)) == 3
    await stores[1].leave(new.member, held=[(some, 10)])
    assert await grants_of(url) == {(*some, "replica-0"): 10}


async def test_what_an_older_process_gives_back_is_not_taken_from_the_newer_one(
    stores: list[PostgresStore], url: str
) -> None:
    (old, *_), key = await joined(stores), await kept_key(stores[0])
    of = KeyMonth(key.id, MONTH)
    await stores[0].ask(old, of, replace_least(ONE, 300))
    await stores[1].join("replica-0", lease_s=LEASE_S, held=[(of, 70)])
    with pytest.raises(Lapsed):
        await stores[0].give_back(old, [(of, 230)], tell=True)
    assert await grants_of(url) == {(*of, "replica-0"): 70}


async def test_a_dead_replica_s_grants_return_once_its_requests_are_over(stores: list[PostgresStore], url: str) -> None:
    (member, *_), key = await joined(stores), await kept_key(stores[0])
    await stores[0].ask(member, KeyMonth(key.id, MONTH), replace_least(ONE, 300))
    await age(url, "UPDATE replicas SET expires_at = clock_timestamp() - interval '50 s' WHERE id = 'replica-0'")
    assert await stores[1].sweep(longest_s=60) == 0
    assert sum((await grants_of(url)).values()) == 300
    assert await stores[1].sweep(longest_s=40) == 1
    assert await grants_of(url) == {}


async def test_old_changes_are_forgotten_but_their_number_is_not(stores: list[PostgresStore], url: str) -> None:
    keys = [await kept_key(stores[0]) for _ in range(2)]
    for key in keys:
        await stores[0].delete_key(key.id, deleted_at_us=1, event=make_event())
    last = await stores[0].last_change()
    await age(url, "UPDATE key_changes SET at = clock_timestamp() - interval '2 hours'")
    await stores[0].sweep(longest_s=60)
    assert await stores[0].last_change() == last
    async with connected(url) as connection:
        assert await connection.fetchval("SELECT COUNT(*) FROM key_changes") == 1


@pytest.mark.parametrize("seed", range(3))
async def test_replicas_that_ask_charge_and_give_back_at_once_keep_to_the_limit(
    stores: list[PostgresStore], url: str, seed: int
) -> None:
    members, key = await joined(stores), await kept_key(stores[0], limit_nano=5000)
    of, spent = KeyMonth(key.id, MONTH), 0

    async def live(n: int) -> int:
        """Be a replica that admits only what it was granted; return what it charged."""
        chance, known, held, charged = random.Random(seed * 10 + n), Granted(0, 0), 0, 0
        for _ in range(40):
            worst = chance.randint(1, 200)
            if held + worst > known.granted_nano:
                asked = Ask(int(held > 0), held, worst, worst)
                answer = await stores[n].ask(members[n], of, asked)
                assert answer is not None
                known = max(known, answer.granted, key=lambda each: each.version)
            if held + worst <= known.granted_nano:
                held += worst
                amount = chance.randint(0, worst)
                posted = await stores[n].post(Batch([make_charge(amount, key_id=key.id)]))
                held, charged = held - worst, charged + amount
                known = max(known, posted.grants[of], key=lambda each: each.version)
            if chance.random() < 0.2 and known.granted_nano > held:
                told = await stores[n].give_back(members[n], [(of, known.granted_nano - held)], tell=False)
                known = max(known, told[of], key=lambda each: each.version)
        return charged

    spent = sum(await asyncio.gather(*map(live, range(3))))
    stored = await stores[0].key_by_id(key.id)
    assert stored is not None
    assert stored.totals.lifetime_nano == spent <= 5000
    assert spent + sum((await grants_of(url)).values()) <= 5000
    assert spent > 4000
