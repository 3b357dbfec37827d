"""Reports of usage: which days they are over, how much they tell, and the names of keys."""

from dataclasses import replace

import pytest
from changes import OPERATOR
from management.conftest import House
from store.builders import make_charge

from keytoll.core.errors import InvalidValue
from keytoll.core.usage import Group, Sums
from keytoll.management import books
from keytoll.store.base import Batch, ChargeQuery

ALICE = "users/alice"


async def _spend(house: House, *days: str) -> None:
    key_id = house.keys[ALICE].id
    await house.store.post(Batch([replace(make_charge(3, key_id=key_id), day=day) for day in days]))


async def test_a_report_is_over_this_month_unless_it_says_otherwise(house: House) -> None:
    """It is 2026-11-27 in the billing zone."""
    await _spend(house, "2026-10-31", "2026-11-01", "2026-11-27", "2026-11-28")
    report = await house.management.books.usage(OPERATOR, owner=ALICE)
    assert (report.since, report.until, report.total.requests) == ("2026-11-01", "2026-11-27", 2)
    report = await house.management.books.usage(OPERATOR, owner=ALICE, until="2026-10-31")
    assert (report.since, report.until, report.total.requests) == ("2026-10-01", "2026-10-31", 1)
    report = await house.management.books.usage(OPERATOR, owner=ALICE, since="2026-10-31", until="2026-11-28")
    assert report.total.requests == 4


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [
        ("2026-11-02", "2026-11-01", "since"),
        ("2025-11-01", "2026-11-02", "since"),
        ("2026-2-01", None, "since"),
        ("20261101", None, "since"),
        ("2026-11-31", None, "since"),
        (None, "tomorrow", "until"),
        (None, "2026-W01-1", "until"),
    ],
)
async def test_days_that_are_none_and_too_many_are_refused(
    house: House, since: str | None, until: str | None, field: str
) -> None:
    with pytest.raises(InvalidValue) as raised:
        await house.management.books.usage(OPERATOR, owner=ALICE, since=since, until=until)
    assert raised.value.field == field


async def test_a_whole_leap_year_is_not_too_much(house: House) -> None:
    report = await house.management.books.usage(OPERATOR, since="2028-01-01", until="2028-12-31")
    assert (report.rows, report.total) == ([], Sums())


async def test_more_sums_than_anyone_reads_are_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "MAX_GROUPS", 2)
    await _spend(house, "2026-11-01", "2026-11-02")
    by_day = frozenset({Group.DAY})
    assert len((await house.management.books.usage(OPERATOR, group_by=by_day)).rows) == 2
    await _spend(house, "2026-11-03")
    with pytest.raises(InvalidValue, match="group_by"):
        await house.management.books.usage(OPERATOR, group_by=by_day)


async def test_keys_are_told_by_name_also_deleted_ones(house: House) -> None:
    key = house.keys[ALICE]
    await _spend(house, "2026-11-01")
    await house.management.keys.delete(OPERATOR, key.id)
    unknown = replace(make_charge(key_id="key_of_a_lost_backup"), day="2026-11-02")
    await house.store.post(Batch([unknown]))
    alice = await house.actor("alice")
    report = await house.management.books.usage(alice, owner=ALICE, group_by=frozenset({Group.KEY}))
    assert report.key_names == {key.id: key.name}
    assert {row.key_id for row in report.rows} == {key.id, "key_of_a_lost_backup"}
    page = await house.management.books.list_charges(alice, ChargeQuery(owner=ALICE))
    assert {listed.charge.entry.key_id: listed.key_name for listed in page.data} == {
        key.id: key.name,
        "key_of_a_lost_backup": None,
    }
    explained = await house.management.books.explain_charge(alice, page.data[0].charge.id)
    assert explained.key_name == page.data[0].key_name
