"""Conformance of every store: usage, which is summed as charges are posted."""

import asyncio
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.builders import USAGE, altered, make_charge, make_unsettled, unique

from keytoll.core.ledger import Charge
from keytoll.core.money import MAX_TOTAL_NANO
from keytoll.core.pricing import Usage
from keytoll.core.usage import Group, Sums, UsageRow
from keytoll.store.base import Batch, Store, UsageQuery

ALL = UsageQuery("2026-01-01", "2026-12-31")
BY_ALL = replace(ALL, group_by=frozenset(Group))


def spent(
    amount_nano: int = 1,
    *,
    owner: str = "users/alice",
    day: str = "2026-09-21",
    key_id: str = "key_x",
    model: str = "m",
) -> Charge:
    """Return the charge of a new decision."""
    charge = make_charge(amount_nano, owner=owner, key_id=key_id)
    return replace(charge, day=day, entry=replace(charge.entry, model=model))


def _group(charge: Charge) -> tuple[str, str, str, str]:
    return charge.entry.owner, charge.day, charge.entry.key_id, charge.entry.model


async def test_nothing_used_is_no_row(store: Store) -> None:
    assert await store.usage(ALL) == []
    assert await store.usage(BY_ALL) == []
    await store.post(Batch([spent()]))
    assert await store.usage(replace(ALL, owner="users/bob")) == []


async def test_usage_is_summed_by_any_groups_and_sorted_by_them(store: Store) -> None:
    charges = [
        spent(1, owner="users/b", day="2026-09-02", key_id="key_1", model="m"),
        spent(2, owner="users/a", day="2026-09-02", key_id="key_2", model="n"),
        spent(4, owner="users/a", day="2026-09-01", key_id="key_2", model="m"),
        spent(8, owner="users/a", day="2026-09-01", key_id="key_3", model="m"),
    ]
    await store.post(Batch(charges[:2]))
    await store.post(Batch(charges[2:]))

    async def amounts(query: UsageQuery, *groups: Group) -> list[tuple[str | None, ...]]:
        rows = await store.usage(replace(query, group_by=frozenset(groups)))
        return [(*filter(None, (r.owner, r.day, r.key_id, r.model)), str(r.sums.amount_nano)) for r in rows]

    assert await amounts(ALL) == [("15",)]
    assert await amounts(ALL, Group.OWNER) == [("users/a", "14"), ("users/b", "1")]
    assert await amounts(ALL, Group.DAY) == [("2026-09-01", "12"), ("2026-09-02", "3")]
    assert await amounts(ALL, Group.MODEL, Group.KEY) == [
        ("key_1", "m", "1"),
        ("key_2", "m", "4"),
        ("key_2", "n", "2"),
        ("key_3", "m", "8"),
    ]
    of_a = replace(ALL, owner="users/a")
    assert await amounts(of_a, Group.DAY, Group.MODEL) == [("2026-09-01", "m", "12"), ("2026-09-02", "n", "2")]
    assert await amounts(replace(of_a, until="2026-09-01")) == [("12",)]
    assert await amounts(replace(of_a, since="2026-09-02", until="2026-09-02")) == [("2",)]
    assert await amounts(replace(ALL, limit=1), Group.KEY) == [("key_1", "1")]


async def test_each_class_of_tokens_is_summed_apart(store: Store) -> None:
    await store.post(Batch([spent(3), spent(4)]))
    doubled = Usage(input=22, cached_input=24, cache_write=26, output=28, audio_input=30, audio_output=32, reasoning=34)
    assert await store.usage(ALL) == [UsageRow(Sums(2, doubled, 7))]


async def test_repeats_conflicts_and_what_is_given_up_are_not_used_and_a_correction_is(store: Store) -> None:
    charge, late = spent(5), spent(7)
    await store.post(Batch([charge, charge, altered(charge)], unsettled=[replace(make_unsettled(late), day=late.day)]))
    assert await store.usage(ALL) == [UsageRow(Sums(1, USAGE, 5))]
    await store.post(Batch([charge, altered(charge)]))
    assert await store.usage(ALL) == [UsageRow(Sums(1, USAGE, 5))]
    await store.post(Batch([late, late]))
    (row,) = await store.usage(ALL)
    assert (row.sums.requests, row.sums.amount_nano) == (2, 12)


async def test_a_sum_beyond_64_bits_posts_nothing_of_its_batch(store: Store) -> None:
    most = replace(spent(), usage=Usage(input=MAX_TOTAL_NANO))
    await store.post(Batch([most]))
    with pytest.raises(OverflowError):
        await store.post(Batch([spent(owner="users/bob"), replace(spent(), usage=Usage(input=1))]))
    assert await store.usage(replace(ALL, owner="users/bob")) == []


async def test_what_several_groups_come_to_may_be_beyond_64_bits(store: Store) -> None:
    usage = Usage(output=MAX_TOTAL_NANO)
    days = ("2026-09-01", "2026-09-02", "2026-09-03")
    await store.post(Batch([replace(spent(day=day), usage=usage) for day in days]))
    assert await store.usage(ALL) == [UsageRow(Sums(3, Usage(output=3 * MAX_TOTAL_NANO), 3))]


async def test_concurrent_posts_lose_no_usage(store: Store) -> None:
    charges = [spent(1) for _ in range(60)]
    await asyncio.gather(*(store.post(Batch(charges[n : n + 20])) for n in range(0, 41, 2)))
    (row,) = await store.usage(ALL)
    assert (row.sums.requests, row.sums.amount_nano) == (60, 60)


_SPENT = st.builds(
    spent,
    st.integers(0, 2**50),
    owner=st.sampled_from(["users/a", "users/b"]),
    day=st.sampled_from(["2026-01-31", "2026-02-01"]),
    key_id=st.sampled_from(["key_1", "key_2"]),
    model=st.sampled_from(["m", "n"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(_SPENT, max_size=8), max_size=4), group_by=st.frozensets(st.sampled_from(Group)))
async def test_usage_is_the_sum_of_the_charges(
    store: Store, batches: list[list[Charge]], group_by: frozenset[Group]
) -> None:
    tag = unique("-")  # the store is the same for each example
    batches = [[replace(c, entry=replace(c.entry, owner=c.entry.owner + tag)) for c in batch] for batch in batches]
    for batch in batches:
        await store.post(Batch(batch))
    expected: defaultdict[tuple[str, str, str, str], Sums] = defaultdict(Sums)
    for charge in (charge for batch in batches for charge in batch):
        expected[_group(charge)] += Sums(1, charge.usage, charge.amount_nano)
    owners = {group[0] for group in expected}
    rows = [row for owner in owners for row in await store.usage(replace(BY_ALL, owner=owner))]
    assert {(row.owner, row.day, row.key_id, row.model): row.sums for row in rows} == expected
    for owner in owners:
        total = sum((row.sums for row in await store.usage(replace(ALL, owner=owner, group_by=group_by))), Sums())
        assert total == sum((sums for group, sums in expected.items() if group[0] == owner), Sums())
