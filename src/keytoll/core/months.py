"""Calendar months of the billing time zone, which a monthly quota counts by, and its days, which usage is told by.

A month is named `YYYY-MM`. It starts at local midnight of its 1st, also where daylight saving moves that midnight.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(at_us: int) -> datetime:
    """Return the instant as an aware UTC datetime, exactly (no float in between)."""
    return _EPOCH + timedelta(microseconds=at_us)


def to_us(at: datetime) -> int:
    """Return the instant of an aware datetime in microseconds since the UNIX epoch."""
    return (at - _EPOCH) // timedelta(microseconds=1)


_NAME = re.compile(r"\d{4}-(0[1-9]|1[0-2])", re.ASCII)


def is_month(name: str) -> bool:
    """Return whether the text names a month, as `YYYY-MM`."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Month:
    """One calendar month: its name and the instants `start_us <= t < end_us` that belong to it."""

    name: str
    start_us: int
    end_us: int


def month_at(at_us: int, zone: ZoneInfo) -> Month:
    """Return the month of the billing zone that holds the instant."""
    local = to_datetime(at_us).astimezone(zone)
    year, month = local.year, local.month
    following = (year + 1, 1) if month == 12 else (year, month + 1)
    return Month(f"{year:04d}-{month:02d}", _first_instant(year, month, zone), _first_instant(*following, zone))


def _first_instant(year: int, month: int, zone: ZoneInfo) -> int:
    """Return the first instant of the month.

    Where a clock change repeats midnight, fold 0 is the earlier one. Where it skips midnight, fold 0 maps 00:00 by the
    offset from before the gap, which is the gap's own instant: the first that the local calendar calls the 1st.
    """
    return to_us(datetime(year, month, 1, tzinfo=zone, fold=0))


class Calendar:
    """Answers "which month is it" for a zone, remembering the last month so that the common case is one comparison."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self._last = month_at(0, zone)
        self._day_of_s, self._day = -1, ""

    def month(self, at_us: int) -> Month:
        """Return the month that holds the instant."""
        last = self._last
        if not last.start_us <= at_us < last.end_us:
            last = self._last = month_at(at_us, self.zone)
        return last

    def day(self, at_us: int) -> str:
        """Return the day of the zone that holds the instant, as `YYYY-MM-DD`."""
        at_s = at_us // 1_000_000
        if at_s != self._day_of_s:  # zones change by whole seconds, and requests of one second are many
            self._day_of_s, self._day = at_s, to_datetime(at_us).astimezone(self.zone).date().isoformat()
        return self._day
