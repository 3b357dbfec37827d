"""Instants as people and programs write them: when a key expires, and since when to list charges.

People write durations (`30m`, `30d`, `1mo`), dates and times in the billing time zone; programs write RFC 3339 with an
offset. A bare number is refused, since nothing tells whether it means seconds, milliseconds or days.
"""

import re
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import partial
from zoneinfo import ZoneInfo

from keytoll.core.errors import InvalidValue
from keytoll.core.months import to_datetime, to_us

MAX_INSTANT_US = to_us(datetime(9999, 12, 31, tzinfo=UTC))
"""The first instant that is refused: from here on, some zone's local time is beyond the year 9999."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MONTHS = {"mo": 1, "y": 12}
_PART = re.compile(r"(\d{1,9})(mo|[smhdwy])", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_DATE = re.compile(r"(\d{4,})-(\d\d)-(\d\d)", re.ASCII)
_TIME = re.compile(
    rf"{_DATE.pattern}[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{{1,9}}))?)?(Z|z|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_UTC = ZoneInfo("UTC")

_FORMS = (
    "must be a duration such as 30m, 12h, 30d or 1mo, a date such as 2030-12-31, or a time such as 2030-12-31T18:00"
)


def parse_expiry(text: str, *, now_us: int, zone: ZoneInfo, field: str = "expires") -> int:
    """Return the instant, in microseconds, at which a key expires that is made to expire by `text`.

    `3s 30m 12h 30d 2w 1mo 1y`, also several at once (`1h30m`), count from `now_us`. A day is 24 hours; a month or a year
    leads to the same day and time of the billing zone's calendar, or to the month's last day where there is no such day.
    A date means through the end of that day in the billing zone, a time without an offset is the billing zone's. Of a
    local time that a clock change repeats, the first is meant. Raises InvalidValue, also for what is not in the future.
    """
    at_us = _parse(text, now_us=now_us, zone=zone, field=field, sign=1, through_day=True)
    return check_future(at_us, now_us=now_us, field=field)


def parse_since(text: str, *, now_us: int, zone: ZoneInfo, field: str = "since") -> int:
    """Return the instant that `text` means as a start: a duration counts back from `now_us`, a date is its first instant.

    Otherwise as `parse_expiry`, and the past is welcome.
    """
    return _parse(text, now_us=now_us, zone=zone, field=field, sign=-1, through_day=False)


def parse_until(text: str, *, now_us: int, zone: ZoneInfo, field: str = "until") -> int:
    """Return the instant that `text` means as an end: as `parse_since`, but a date is the instant after its last."""
    return _parse(text, now_us=now_us, zone=zone, field=field, sign=-1, through_day=True)


def parse_timestamp(text: str, *, field: str) -> int:
    """Return the microseconds of a strict RFC 3339 timestamp with an offset; digits beyond microseconds are cut off."""
    match = _TIME.fullmatch(text)
    if match is None or match[6] is None or match[8] is None:
        raise InvalidValue(field, "must be an RFC 3339 timestamp with an offset, such as 2030-12-31T18:00:00Z")
    return _bounded(partial(_time, match, zone=_UTC), field)


def format_timestamp(at_us: int) -> str:
    """Return the instant in RFC 3339 and UTC, with a fraction only where it has one: `2030-12-01T00:00:00Z`."""
    return to_datetime(at_us).replace(tzinfo=None).isoformat() + "Z"


def check_future(at_us: int, *, now_us: int, field: str) -> int:
    """Return the instant if it is in the future."""
    if at_us <= now_us:
        raise InvalidValue(field, "must be in the future")
    return at_us


def _parse(text: str, *, now_us: int, zone: ZoneInfo, field: str, sign: int, through_day: bool) -> int:
    text = text.strip()
    if text.isascii() and text.isdigit():
        raise InvalidValue(field, f"{text[:20]} has no unit; write a duration such as 30m or 30d, or a date or time")
    if _DURATION.fullmatch(text):
        return _bounded(partial(_shifted, text, now_us=now_us, zone=zone, sign=sign), field)
    if day := _DATE.fullmatch(text):
        return _bounded(partial(_day, day, zone=zone, through=through_day), field)
    if time := _TIME.fullmatch(text):
        return _bounded(partial(_time, time, zone=zone), field)
    raise InvalidValue(field, _FORMS)


def _bounded(compute: Callable[[], int], field: str) -> int:
    try:
        at_us = compute()
    except (ValueError, OverflowError) as error:
        raise InvalidValue(field, "must be a real date and time, before 9999-12-31") from error
    if at_us >= MAX_INSTANT_US:
        raise InvalidValue(field, "must be before 9999-12-31; a key without an expiry never expires")
    return at_us


def _shifted(text: str, *, now_us: int, zone: ZoneInfo, sign: int) -> int:
    parts = [(int(count), unit) for count, unit in _PART.findall(text)]
    months = sum(count * _MONTHS[unit] for count, unit in parts if unit in _MONTHS)
    seconds = sum(count * _SECONDS[unit] for count, unit in parts if unit in _SECONDS)
    at = to_datetime(now_us)
    if months:
        at = _months_later(at.astimezone(zone), sign * months).astimezone(UTC)
    return to_us(at + sign * timedelta(seconds=seconds))


def _months_later(local: datetime, months: int) -> datetime:
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    month += 1
    if not 1 <= year <= 9999:
        raise OverflowError("the calendar ends")
    return local.replace(year=year, month=month, day=min(local.day, monthrange(year, month)[1]), fold=0)


def _day(match: re.Match[str], *, zone: ZoneInfo, through: bool) -> int:
    year, month, number = map(int, match.groups())
    day = date(year, month, number)
    if through:
        day += timedelta(days=1)
    return to_us(datetime(day.year, day.month, day.day, tzinfo=zone))


def _time(match: re.Match[str], *, zone: ZoneInfo) -> int:
    *numbers, fraction, offset = match.groups(default="")
    year, month, day, hour, minute, second = (int(number or 0) for number in numbers)
    microsecond = int(fraction[:6].ljust(6, "0"))
    return to_us(datetime(year, month, day, hour, minute, second, microsecond, tzinfo=_zone(offset, zone)))


def _zone(offset: str, zone: ZoneInfo) -> tzinfo:
    if not offset:
        return zone
    if offset in "Zz":
        return UTC
    hours, minutes = int(offset[1:3]), int(offset[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError("no such offset")
    return timezone(timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1))
