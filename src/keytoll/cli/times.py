"""Times as people give them to commands, turned into what the API takes."""

import time
from collections.abc import Mapping
from zoneinfo import ZoneInfo

from keytoll.core.expiry import format_timestamp, parse_expiry, parse_since, parse_until
from keytoll.core.months import to_datetime

_MICROSECOND = 1


def expiry(text: str, about: Mapping[str, str], *, field: str) -> str:
    """Return an instant to come as a timestamp. Raises InvalidValue."""
    return format_timestamp(parse_expiry(text, now_us=_now_us(), zone=_zone(about), field=field))


def start(text: str | None, about: Mapping[str, str]) -> str | None:
    """Return the timestamp of `--since`. Raises InvalidValue."""
    return None if text is None else format_timestamp(parse_since(text, now_us=_now_us(), zone=_zone(about)))


def end(text: str | None, about: Mapping[str, str]) -> str | None:
    """Return the timestamp of `--until`. Raises InvalidValue."""
    return None if text is None else format_timestamp(parse_until(text, now_us=_now_us(), zone=_zone(about)))


def first_day(text: str | None, about: Mapping[str, str]) -> str | None:
    """Return the day of `--since` in the billing time zone. Raises InvalidValue."""
    return None if text is None else _day(parse_since(text, now_us=_now_us(), zone=_zone(about)), about)


def last_day(text: str | None, about: Mapping[str, str]) -> str | None:
    """Return the last day before `--until`, which may be the day itself. Raises InvalidValue."""
    if text is None:
        return None
    return _day(parse_until(text, now_us=_now_us(), zone=_zone(about)) - _MICROSECOND, about)


def _day(at_us: int, about: Mapping[str, str]) -> str:
    return f"{to_datetime(at_us).astimezone(_zone(about)):%Y-%m-%d}"


def _zone(about: Mapping[str, str]) -> ZoneInfo:
    return ZoneInfo(about["billing_time_zone"])


def _now_us() -> int:
    return time.time_ns() // 1000
