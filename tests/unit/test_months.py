"""Calendar months in the billing zone, and quotas counted by them."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.errors import InvalidValue
from keytoll.core.money import MAX_LIMIT_NANO
from keytoll.core.months import Calendar, month_at, to_datetime, to_us
from keytoll.core.quota import Quota, QuotaKind, Totals, is_spent, spent_nano

ZONES = sorted(available_timezones() - {"localtime", "Factory"})
INSTANTS = st.integers(to_us(datetime(1975, 1, 1, tzinfo=UTC)), to_us(datetime(2100, 1, 1, tzinfo=UTC)))


def us(text: str) -> int:
    return to_us(datetime.fromisoformat(text))


@pytest.mark.parametrize(
    ("zone", "last", "first"),
    [
        ("UTC", "2026-10-31T23:59:59.999999+00:00", "2026-11-01T00:00:00+00:00"),
        ("Asia/Shanghai", "2026-10-31T15:59:59.999999+00:00", "2026-10-31T16:00:00+00:00"),
        ("Asia/Tokyo", "2026-10-31T14:59:59.999999+00:00", "2026-10-31T15:00:00+00:00"),  # user report 10
        ("America/New_York", "2026-11-01T03:59:59.999999+00:00", "2026-11-01T04:00:00+00:00"),  # clocks change that day
        ("America/New_York", "2026-04-01T03:59:59.999999+00:00", "2026-04-01T04:00:00+00:00"),
        ("Europe/Lisbon", "1992-09-26T23:59:59+00:00", "1992-10-01T00:00:00+01:00"),
    ],
)
def test_a_month_ends_at_local_midnight(zone: str, last: str, first: str) -> None:
    """User reports 9 and 10: the calendar's 1st, at local midnight, also on daylight-saving days."""
    here = ZoneInfo(zone)
    before, after = month_at(us(last), here), month_at(us(first), here)
    assert before.name < after.name
    assert after.start_us <= us(first) < after.end_us
    assert before.end_us <= after.start_us


def test_every_month_follows_on_the_one_before() -> None:
    here = ZoneInfo("America/New_York")
    month = month_at(us("2024-01-15T00:00:00+00:00"), here)
    names = [month.name]
    for _ in range(24):
        following = month_at(month.end_us, here)
        assert following.start_us == month.end_us
        assert month_at(month.end_us - 1, here) == month
        month = following
        names.append(month.name)
    assert names[:13] == [f"2024-{m:02d}" for m in range(1, 13)] + ["2025-01"]


@given(INSTANTS, st.sampled_from(ZONES))
def test_an_instant_lies_in_its_month_in_every_zone(at_us: int, zone: str) -> None:
    month = month_at(at_us, ZoneInfo(zone))
    assert month.start_us <= at_us < month.end_us
    assert month.name == to_datetime(at_us).astimezone(ZoneInfo(zone)).strftime("%Y-%m")


@given(st.lists(INSTANTS, min_size=1, max_size=8))
def test_a_calendar_answers_right_whichever_way_the_clock_steps(instants: list[int]) -> None:
    calendar = Calendar(ZoneInfo("Asia/Shanghai"))
    for at_us in instants:
        assert calendar.month(at_us) == month_at(at_us, calendar.zone)


TOTALS = Totals(lifetime_nano=70, by_month={"2026-10": 50, "2026-11": 20})


@pytest.mark.parametrize(
    ("quota", "month", "spent", "is_it"),
    [
        (Quota(), "2026-11", 70, False),
        (Quota(QuotaKind.TOTAL, 71), "2026-11", 70, False),
        (Quota(QuotaKind.TOTAL, 70), "2026-11", 70, True),
        (Quota(QuotaKind.MONTHLY, 50), "2026-10", 50, True),
        (Quota(QuotaKind.MONTHLY, 50), "2026-11", 20, False),
        (Quota(QuotaKind.MONTHLY, 50), "2026-12", 0, False),
        (Quota(QuotaKind.MONTHLY, 0), "2026-12", 0, True),  # user report 11: 0 blocks, it is never unlimited
        (Quota(QuotaKind.TOTAL, 10), "2026-12", 70, True),  # user report 12: already beyond
    ],
)
def test_what_counts_towards_a_quota(quota: Quota, month: str, spent: int, is_it: bool) -> None:
    assert spent_nano(quota, TOTALS, month) == spent
    assert is_spent(quota, TOTALS, month) is is_it


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (QuotaKind.UNLIMITED, 0),
        (QuotaKind.MONTHLY, None),
        (QuotaKind.TOTAL, -5),  # user report 11
        (QuotaKind.TOTAL, MAX_LIMIT_NANO + 1),
    ],
)
def test_a_quota_that_makes_no_sense_is_refused(kind: QuotaKind, limit: int | None) -> None:
    with pytest.raises(InvalidValue) as raised:
        Quota(kind, limit)
    assert raised.value.field == "quota.limit"


@given(st.integers(0, 4_000_000_000_000_000), st.sampled_from(["UTC", "Asia/Shanghai", "America/Sao_Paulo"]))
def test_a_day_is_of_its_month_and_ends_with_it(at_us: int, zone: str) -> None:
    calendar = Calendar(ZoneInfo(zone))
    month = calendar.month(at_us)
    assert calendar.day(at_us).startswith(f"{month.name}-")
    assert calendar.day(month.start_us) == f"{month.name}-01"
    assert not calendar.day(month.end_us).startswith(month.name)
