"""Instants as people and programs write them."""

from contextlib import suppress
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.errors import InvalidValue
from keytoll.core.expiry import (
    MAX_INSTANT_US,
    format_timestamp,
    parse_expiry,
    parse_since,
    parse_timestamp,
    parse_until,
)
from keytoll.core.months import to_us

SHANGHAI = ZoneInfo("Asia/Shanghai")
NEW_YORK = ZoneInfo("America/New_York")


def at(text: str) -> int:
    return to_us(datetime.fromisoformat(text))


NOW_US = at("2026-11-27T20:00:00+08:00")


def expiry(text: str, *, now: str = "2026-11-27T20:00:00+08:00", zone: ZoneInfo = SHANGHAI) -> str:
    return format_timestamp(parse_expiry(text, now_us=at(now), zone=zone))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3s", 3),
        ("30m", 1800),
        ("12h", 43_200),
        ("30d", 2_592_000),
        ("2w", 1_209_600),
        ("1h30m", 5400),
        ("36500d", 3_153_600_000),
    ],
)
def test_exact_durations_are_exact_to_the_microsecond(text: str, seconds: int) -> None:
    """User report 5: thirty minutes are thirty minutes, not never."""
    now_us = NOW_US + 123_456
    assert parse_expiry(text, now_us=now_us, zone=SHANGHAI) == now_us + seconds * 1_000_000


@pytest.mark.parametrize(
    ("now", "text", "expected"),
    [
        ("2027-01-31T10:00:00+08:00", "1mo", "2027-02-28T10:00:00+08:00"),
        ("2028-01-31T10:00:00+08:00", "1mo", "2028-02-29T10:00:00+08:00"),
        ("2026-12-31T10:00:00+08:00", "2mo", "2027-02-28T10:00:00+08:00"),
        ("2026-12-15T10:00:00+08:00", "1mo", "2027-01-15T10:00:00+08:00"),
        ("2028-02-29T10:00:00+08:00", "1y", "2029-02-28T10:00:00+08:00"),
        ("2026-12-31T10:00:00+08:00", "1y2mo", "2028-02-29T10:00:00+08:00"),
        ("2027-01-31T10:00:00+08:00", "1mo1d", "2027-03-01T10:00:00+08:00"),
    ],
)
def test_a_month_leads_to_the_same_day_or_to_the_months_last(now: str, text: str, expected: str) -> None:
    """User report 4: one month from January 31 is the last day of February, not March 3."""
    assert expiry(text, now=now) == format_timestamp(at(expected))


def test_months_are_those_of_the_billing_zone() -> None:
    """At 2027-01-31T20:00Z it is February 1 in Shanghai already, so a month leads to March 1 there."""
    assert expiry("1mo", now="2027-01-31T20:00:00+00:00") == "2027-02-28T20:00:00Z"
    assert expiry("1mo", now="2027-01-31T20:00:00+00:00", zone=NEW_YORK) == "2027-02-28T20:00:00Z"
    assert expiry("1mo", now="2027-02-20T12:00:00-05:00", zone=NEW_YORK) == "2027-03-20T16:00:00Z"


def test_a_date_means_through_the_end_of_that_day_in_the_billing_zone() -> None:
    assert expiry("2026-12-31") == "2026-12-31T16:00:00Z"
    assert expiry("2026-11-27") == "2026-11-27T16:00:00Z"
    assert expiry("2026-12-31", zone=NEW_YORK) == "2027-01-01T05:00:00Z"


def test_a_day_that_a_clock_change_shortens_or_lengthens_still_ends_at_midnight() -> None:
    assert expiry("2027-03-14", zone=NEW_YORK) == "2027-03-15T04:00:00Z"
    assert expiry("2027-11-07", zone=NEW_YORK) == "2027-11-08T05:00:00Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2030-06-01T18:00", "2030-06-01T10:00:00Z"),
        ("2030-06-01 18:00:30", "2030-06-01T10:00:30Z"),
        ("2030-06-01T18:00:00Z", "2030-06-01T18:00:00Z"),
        ("2030-06-01T18:00:00-05:30", "2030-06-01T23:30:00Z"),
        ("  2030-06-01t18:00:00.250z ", "2030-06-01T18:00:00.250000Z"),
    ],
)
def test_a_time_is_the_billing_zones_unless_it_says_its_offset(text: str, expected: str) -> None:
    assert expiry(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1767225600000", "has no unit"),
        ("30", "has no unit"),
        ("2020-01-01", "must be in the future"),
        ("2026-11-26", "must be in the future"),
        ("2026-11-27T19:59", "must be in the future"),
        ("0s", "must be in the future"),
        ("0mo", "must be in the future"),
        ("2027-02-29", "must be a real date"),
        ("2027-13-01", "must be a real date"),
        ("2027-01-01T24:00", "must be a real date"),
        ("2027-01-01T12:00:00+24:00", "must be a real date"),
        ("10000-01-01", "before 9999-12-31"),
        ("99999999-01-01T00:00:00Z", "before 9999-12-31"),
        ("9999-12-31", "before 9999-12-31"),
        ("9999-12-31T00:00:00Z", "before 9999-12-31"),
        ("8000y", "before 9999-12-31"),
        ("999999999y", "before 9999-12-31"),
        ("999999999w", "before 9999-12-31"),
        ("1M", "must be a duration such as"),
        ("-5d", "must be a duration such as"),
        ("1.5h", "must be a duration such as"),
        ("tomorrow", "must be a duration such as"),
        ("", "must be a duration such as"),
        ("2026-12-31T", "must be a duration such as"),
        ("３０d", "must be a duration such as"),
        ("９９", "must be a duration such as"),
    ],
)
def test_what_is_past_unreal_or_without_a_unit_is_refused(text: str, says: str) -> None:
    """User report 6: milliseconds are not taken for seconds, nor anything else for what it may not mean."""
    with pytest.raises(InvalidValue, match=says) as caught:
        parse_expiry(text, now_us=NOW_US, zone=SHANGHAI)
    assert caught.value.field == "expires"


def test_since_counts_back_and_a_date_is_its_start() -> None:
    def since(text: str) -> str:
        return format_timestamp(parse_since(text, now_us=NOW_US, zone=SHANGHAI))

    assert since("12h") == "2026-11-27T00:00:00Z"
    assert since("1mo") == "2026-10-27T12:00:00Z"
    assert since("2026-11-01") == "2026-10-31T16:00:00Z"
    assert since("1999-12-31T00:00:00Z") == "1999-12-31T00:00:00Z"
    with pytest.raises(InvalidValue, match="real date"):
        since("3000y")


def test_until_counts_back_and_a_date_is_its_end() -> None:
    def until(text: str) -> str:
        return format_timestamp(parse_until(text, now_us=NOW_US, zone=SHANGHAI))

    assert until("12h") == "2026-11-27T00:00:00Z"
    assert until("2026-10-31") == "2026-10-31T16:00:00Z"
    assert until("2026-10-31T18:00") == "2026-10-31T10:00:00Z"
    with pytest.raises(InvalidValue, match="until: must be a duration"):
        until("tomorrow")


@pytest.mark.parametrize(
    "text",
    [
        "2030-06-01",
        "2030-06-01T18:00Z",
        "2030-06-01T18:00:00",
        "30d",
        "1767225600000",
        "2030-06-01T18:00:00+0800",
        "2030-06-01T18:00:00Z\n",
        "",
    ],
)
def test_programs_must_write_rfc_3339_with_an_offset(text: str) -> None:
    with pytest.raises(InvalidValue, match="must be an RFC 3339 timestamp") as caught:
        parse_timestamp(text, field="expires_at")
    assert caught.value.field == "expires_at"


def test_more_digits_than_microseconds_are_cut_off() -> None:
    assert parse_timestamp("2030-06-01T18:00:00.123456999Z", field="at") == at("2030-06-01T18:00:00.123456+00:00")


@given(st.integers(at("0001-01-01T00:00:00+00:00"), MAX_INSTANT_US - 1))
def test_a_formatted_timestamp_reads_back_exactly(at_us: int) -> None:
    assert parse_timestamp(format_timestamp(at_us), field="at") == at_us


@given(st.text())
def test_any_text_is_a_future_instant_or_is_refused(text: str) -> None:
    with suppress(InvalidValue):
        assert NOW_US < parse_expiry(text, now_us=NOW_US, zone=SHANGHAI) < MAX_INSTANT_US
