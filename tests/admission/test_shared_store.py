"""Replicas that share a store: what they admit together, and what they know of changes, on the real server."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from admission.replicas import MONTH, NOW_US, Replica, new_key, replica_on
from changes import OPERATOR
from postgres_server import PostgresServer
from proxy import proxy_to

from keytoll.core.quota import Quota, QuotaKind
from keytoll.management import KeyChanges, NotEverywhere
from keytoll.store.postgres.database import Bounds, connected
from keytoll.store.replicas import Lapsed

QUICK = Bounds(connect_s=1, statement_s=0.5, free_s=0.3)


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    """The URL of an empty database."""
    return await postgres.emptied_database()


@pytest.fixture
async def replicas(url: str, tmp_path: Path) -> AsyncIterator[list[Replica]]:
    """Three replicas, none of which renews its lease unless told to."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(replica_on(url, f"r{n}", tmp_path / f"r{n}")) for n in range(3)]


async def granted(url: str, key_id: str) -> dict[str, int]:
    """Return what each replica is granted of a key."""
    async with connected(url) as connection:
        found = await connection.fetch(
            "SELECT replica, SUM(granted_nano)::bigint FROM grants WHERE key_id = $1 AND granted_nano > 0 GROUP BY 1",
            key_id,
        )
    return {row[0]: row[1] for row in found}


# --- the bound ---


@pytest.mark.parametrize("kind", [QuotaKind.TOTAL, QuotaKind.MONTHLY])
async def test_many_requests_at_once_are_admitted_for_what_the_key_is_worth(
    replicas: list[Replica], kind: QuotaKind
) -> None:
    key, secret = await new_key(replicas[0], 1000, kind)
    answers = Counter(await asyncio.gather(*(replicas[n % 3].ask(secret, 100) for n in range(90))))
    assert set(answers) == {"allowed", "rate_limit_exceeded"}
    assert 7 <= answers["allowed"] <= 10  # what is left in the others' allowances may be too little for one more
    spent = sum([await replica.settle() for replica in replicas])
    while (answers := Counter(await asyncio.gather(*(each.ask(secret, 100) for each in replicas))))["allowed"]:
        spent += sum([await replica.settle() for replica in replicas])
    assert spent == 1000
    assert set(answers) == {"insufficient_quota"}
    stored = await replicas[0].store.key_by_id(key.id)
    assert stored is not None
    assert stored.totals.lifetime_nano == 1000


async def test_a_request_that_may_cost_more_than_is_left_gets_through_at_one_replica(replicas: list[Replica]) -> None:
    _, secret = await new_key(replicas[0], 100)
    answers = await asyncio.gather(*(replicas[n % 3].ask(secret, 5000) for n in range(12)))
    assert sorted(answers) == ["allowed", *["rate_limit_exceeded"] * 11]
    assert sum([await replica.settle() for replica in replicas]) == 5000
    assert await asyncio.gather(*(replica.ask(secret, 1) for replica in replicas)) == ["insufficient_quota"] * 3


async def test_a_request_that_cannot_be_bounded_runs_alone(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.live()
    _, secret = await new_key(replicas[0], 100)
    assert await replicas[0].ask(secret, None) == "allowed"
    assert await replicas[0].ask(secret, 1) == "rate_limit_exceeded"
    assert await replicas[1].ask(secret, 1) == "rate_limit_exceeded"
    await replicas[0].settle(40)
    assert await replicas[1].ask(secret, 60) == "allowed"
    assert await replicas[0].ask(secret, None) == "rate_limit_exceeded"


async def test_what_one_replica_holds_for_nothing_another_gets_when_it_asks(replicas: list[Replica], url: str) -> None:
    for replica in replicas:
        replica.live()
    key, secret = await new_key(replicas[0], 1000)
    assert await replicas[0].ask(secret, 1) == "allowed"
    await replicas[0].settle()
    assert (await granted(url, key.id))["r0"] > 100
    assert await replicas[1].ask(secret, 990) == "allowed"
    assert (await granted(url, key.id))["r1"] >= 990


async def test_a_key_without_a_limit_needs_no_allowance(replicas: list[Replica], url: str) -> None:
    key, secret = await new_key(replicas[0], None)
    assert [await replica.ask(secret, 5000) for replica in replicas] == ["allowed"] * 3
    assert await granted(url, key.id) == {}


async def test_allowances_carry_their_month(replicas: list[Replica]) -> None:
    _, secret = await new_key(replicas[0], 1000, QuotaKind.MONTHLY)
    assert await replicas[0].ask(secret, 1000) == "allowed"
    assert await replicas[1].ask(secret, 1) == "rate_limit_exceeded"
    for replica in replicas:
        replica.now_us = NOW_US + 31 * 86_400_000_000
    assert await replicas[1].ask(secret, 1000) == "allowed"
    assert await replicas[0].ask(secret, 1) == "rate_limit_exceeded"
    assert await replicas[0].settle() == 1000  # of the month before
    assert await replicas[0].ask(secret, 1) == "rate_limit_exceeded"


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_replicas_do_a_key_spends_its_limit_plus_one_request_at_most(
    replicas: list[Replica], seed: int
) -> None:
    chance = random.Random(seed)
    for replica in replicas:
        replica.live()
    limit, dearest, spent = chance.choice([50, 400, 3000]), 0, 0
    key, secret = await new_key(replicas[0], limit, chance.choice([QuotaKind.TOTAL, QuotaKind.MONTHLY]))

    async def some_requests(replica: Replica) -> None:
        nonlocal dearest, spent
        for _ in range(12):
            tokens = chance.choice([1, 9, 60, 500, None])
            await replica.ask(secret, tokens)
            if chance.random() < 0.6 and (entries := replica.under_way()):
                for entry in chance.sample(entries, chance.randint(1, len(entries))):
                    worst = 500 if entry.hold_nano is None else entry.hold_nano
                    charged = await replica.settle(chance.randint(0, worst), [entry])
                    dearest, spent = max(dearest, charged), spent + charged
            if chance.random() < 0.2:
                await replica.allowances.tick()

    await asyncio.gather(*(some_requests(replica) for replica in replicas for _ in range(2)))
    for replica in replicas:
        charged = await replica.settle()
        dearest, spent = max(dearest, 500), spent + charged
    stored = await replicas[0].store.key_by_id(key.id)
    assert stored is not None
    assert stored.totals.lifetime_nano == spent
    assert spent <= limit + dearest
    last = await replicas[seed % 3].ask(secret, 10**4)
    assert last == ("allowed" if spent < limit else "insufficient_quota")


# --- what is not used ---


async def test_what_is_idle_goes_back(replicas: list[Replica], url: str) -> None:
    key, secret = await new_key(replicas[0], 1000)
    assert await replicas[0].ask(secret, 30) == "allowed"
    for _ in range(9):
        await replicas[0].allowances.tick()
    assert (await granted(url, key.id))["r0"] > 30
    for _ in range(3):
        await replicas[0].allowances.tick()
    assert await granted(url, key.id) == {"r0": 30}
    await replicas[0].settle()
    for _ in range(3):
        await replicas[0].allowances.tick()
    assert await granted(url, key.id) == {}
    assert len(replicas[0].allowances) == 0
    assert await replicas[0].ask(secret, 970) == "allowed"


async def test_who_starts_anew_keeps_what_it_holds_and_no_more(url: str, tmp_path: Path) -> None:
    async with replica_on(url, "r0", tmp_path / "r0") as first:
        key, secret = await new_key(first, 1000)
        assert await first.ask(secret, 300) == "allowed"
    async with replica_on(url, "r0", tmp_path / "r0") as again:
        assert await granted(url, key.id) == {"r0": 300}
        assert again.allowances.of(key.id, MONTH) == (300, False)
        assert await again.ask(secret, 701) == "rate_limit_exceeded"
        assert await again.ask(secret, 700) == "allowed"


async def test_a_dead_replica_s_part_returns_when_its_requests_are_over(replicas: list[Replica], url: str) -> None:
    _, secret = await new_key(replicas[0], 1000)
    assert await replicas[0].ask(secret, 300) == "allowed"
    assert await replicas[1].ask(secret, 900) == "rate_limit_exceeded"
    async with connected(url) as connection:
        await connection.execute("UPDATE replicas SET expires_at = clock_timestamp() - interval '70 s' WHERE id = 'r0'")
    assert await replicas[1].store.sweep(longest_s=60) == 1
    assert await replicas[1].ask(secret, 900) == "allowed"


# --- changes ---


async def test_a_change_is_in_force_everywhere_when_it_is_answered(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.live()
    one, other, third = replicas
    for change in ("delete", "disable", "rotate"):
        key, secret = await new_key(one, 1000)
        assert [await replica.ask(secret, 1) for replica in replicas] == ["allowed"] * 3
        started_s = time.monotonic()
        match change:
            case "delete":
                await other.management.keys.delete(OPERATOR, key.id)
            case "disable":
                await other.management.keys.edit(OPERATOR, key.id, KeyChanges(disabled=True))
            case "rotate":
                await third.management.keys.rotate(OPERATOR, key.id)
        assert time.monotonic() - started_s < 2
        assert [await replica.ask(secret, 1) for replica in replicas] == ["invalid_api_key"] * 3


async def test_a_lowered_limit_is_answered_once_what_was_granted_above_it_is_back(
    replicas: list[Replica], url: str
) -> None:
    for replica in replicas:
        replica.live()
    key, secret = await new_key(replicas[0], 100_000)
    assert [await replica.ask(secret, 40) for replica in replicas] == ["allowed"] * 3
    assert sum((await granted(url, key.id)).values()) > 30_000
    lower = KeyChanges(quota=Quota(QuotaKind.TOTAL, 200))
    await replicas[1].management.keys.edit(OPERATOR, key.id, lower)
    assert await granted(url, key.id) == {"r0": 40, "r1": 40, "r2": 40}
    answers = Counter(await asyncio.gather(*(replicas[n % 3].ask(secret, 40) for n in range(9))))
    assert answers["allowed"] == 2
    assert sum([await replica.settle() for replica in replicas]) == 200


async def test_who_does_not_confirm_is_waited_for_until_its_lease_has_run_out(url: str, tmp_path: Path) -> None:
    async with (
        replica_on(url, "r0", tmp_path / "r0", staleness_s=0.6) as one,
        replica_on(url, "r1", tmp_path / "r1", staleness_s=0.6) as frozen,
    ):
        one.live()
        key, secret = await new_key(one, 1000)
        assert await frozen.ask(secret, 1) == "allowed"
        await frozen.membership.renew()
        assert await frozen.ask(secret, 1) == "allowed"
        await one.management.keys.delete(OPERATOR, key.id)
        assert await frozen.ask(secret, 1) == "service_unavailable"
        with pytest.raises(Lapsed):
            await frozen.membership.renew()
        await frozen.membership.join()
        assert await frozen.ask(secret, 1) == "invalid_api_key"


async def test_who_may_still_admit_after_the_deadline_is_named_with_the_end_of_that(url: str, tmp_path: Path) -> None:
    async with (
        replica_on(url, "r0", tmp_path / "r0", staleness_s=30, deadline_s=0.3) as one,
        replica_on(url, "r1", tmp_path / "r1", staleness_s=30) as frozen,
    ):
        one.live()
        key, secret = await new_key(one, 1000)
        assert await frozen.ask(secret, 1) == "allowed"
        with pytest.raises(NotEverywhere) as caught:
            await one.management.keys.delete(OPERATOR, key.id)
        (not_yet,) = caught.value.not_yet
        assert not_yet.replica == "r1"
        assert 20_000_000 < not_yet.until_us - NOW_US < 32_000_000
        assert await one.ask(secret, 1) == "invalid_api_key"
        assert await frozen.ask(secret, 1) == "allowed"  # as was said
        await frozen.membership.renew()
        assert await frozen.ask(secret, 1) == "invalid_api_key"


async def test_two_who_edit_one_key_at_once_both_get_what_they_asked_for(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.live()
    key, _ = await new_key(replicas[0], 1000)
    await asyncio.gather(
        replicas[0].management.keys.edit(OPERATOR, key.id, KeyChanges(name=f"{key.name} renamed")),
        replicas[1].management.keys.edit(OPERATOR, key.id, KeyChanges(disabled=True)),
        replicas[2].management.keys.edit(OPERATOR, key.id, KeyChanges(quota=Quota(QuotaKind.TOTAL, 5))),
    )
    stored = await replicas[0].store.key_by_id(key.id)
    assert stored is not None
    changed = (stored.key.name, stored.key.disabled, stored.key.quota.limit_nano)
    assert changed == (f"{key.name} renamed", True, 5)


async def test_who_starts_under_an_id_ends_the_one_before(url: str, tmp_path: Path) -> None:
    async with replica_on(url, "r0", tmp_path / "r0") as one:
        one.live()
        async with replica_on(url, "r0", tmp_path / "other"):
            async with asyncio.timeout(5):
                assert "another Keytoll has started as the replica r0" in await one.ended()


# --- a store that is away, or slow ---


async def test_without_its_store_a_replica_goes_on_within_its_allowance_until_it_is_stale(
    postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    async with (
        proxy_to(postgres.port) as proxy,
        replica_on(
            url.replace(f":{postgres.port}/", f":{proxy.port}/"), "r0", tmp_path / "r0", bounds=QUICK
        ) as replica,
        replica_on(url, "r1", tmp_path / "r1") as other,
    ):
        replica.live()
        key, secret = await new_key(other, 1000)
        _, cold = await new_key(other, 1000)
        assert await replica.ask(secret, 10) == "allowed"
        proxy.fall_silent()
        assert await replica.ask(secret, 10) == "allowed"
        assert await replica.ask(secret, 900) == "service_unavailable"  # more than it has; the store can't say
        assert await replica.ask(cold, 10) == "service_unavailable"
        replica.late_s += 3.1
        assert await replica.ask(secret, 10) == "service_unavailable"
        assert replica.membership.problem == "the store has not confirmed this replica's view of the keys for 3 s"
        proxy.speak()
        async with asyncio.timeout(10):
            while not replica.membership.is_fresh:
                await asyncio.sleep(0.02)
        assert await replica.settle() == 20
        assert await replica.ask(secret, 980) == "allowed"
        assert await granted(url, key.id) == {"r0": 980}


async def test_a_grant_whose_answer_was_lost_is_found_out_and_goes_back(
    postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    async with (
        proxy_to(postgres.port) as proxy,
        replica_on(
            url.replace(f":{postgres.port}/", f":{proxy.port}/"), "r0", tmp_path / "r0", bounds=QUICK
        ) as replica,
    ):
        key, secret = await new_key(replica, 1000)
        assert await replica.ask(secret, 1) == "allowed"
        await replica.settle()
        # What was granted behind its back is as good as an answer that it never heard.
        async with connected(url) as connection:
            await connection.execute("UPDATE grants SET granted_nano = 999, version = nextval('grant_versions')")
        proxy.cut_after(1)
        assert await replica.ask(secret, 998) == "service_unavailable"
        await replica.allowances.tick()
        assert replica.allowances.of(key.id, MONTH).granted_nano == 999
        assert await replica.ask(secret, 999) == "allowed"


async def test_a_slow_store_does_not_slow_the_check_of_a_key_in_memory(
    postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    async with (
        proxy_to(postgres.port) as proxy,
        replica_on(url.replace(f":{postgres.port}/", f":{proxy.port}/"), "r0", tmp_path / "r0") as replica,
    ):
        _, secret = await new_key(replica, 100_000)
        assert await replica.ask(secret, 10) == "allowed"
        proxy.fall_silent()
        waiting = asyncio.create_task(replica.ask(secret, 60_000))
        await asyncio.sleep(0.05)
        for _ in range(100):
            assert await asyncio.wait_for(replica.ask(secret, 10), 0.1) == "allowed"
        assert not waiting.done()
        assert await waiting == "service_unavailable"
        proxy.speak()
