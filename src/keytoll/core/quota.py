"""Quotas: how much a key may spend, and what counts towards it.

Both totals, the key's whole life and each calendar month, are always kept, so that switching kinds is exact. Totals are
keyed by month and never reset: a new month simply starts at nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keytoll.core.errors import InvalidValue
from keytoll.core.money import MAX_LIMIT_NANO


class QuotaKind(StrEnum):
    """What a key's limit counts: nothing, one calendar month, or the key's whole life."""

    UNLIMITED = "unlimited"
    MONTHLY = "monthly"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Quota:
    """A kind and, unless unlimited, its limit. A limit of 0 blocks the key; it never means unlimited."""

    kind: QuotaKind = QuotaKind.UNLIMITED
    limit_nano: int | None = None

    def __post_init__(self) -> None:
        if (self.kind is QuotaKind.UNLIMITED) != (self.limit_nano is None):
            raise InvalidValue("quota.limit", "is given exactly when the quota's kind is monthly or total")
        if self.limit_nano is not None and not 0 <= self.limit_nano <= MAX_LIMIT_NANO:
            raise InvalidValue("quota.limit", "must be from 0 to 9,000,000,000")


@dataclass(frozen=True, slots=True)
class Totals:
    """What a key has spent: over its life, and in each month by name (`YYYY-MM`); a month not listed is 0."""

    lifetime_nano: int = 0
    by_month: Mapping[str, int] = field(default_factory=dict)


def spent_nano(quota: Quota, totals: Totals, month: str) -> int:
    """Return what counts as used: this month's spending under a monthly quota, else the lifetime's."""
    if quota.kind is QuotaKind.MONTHLY:
        return totals.by_month.get(month, 0)
    return totals.lifetime_nano


def left_nano(quota: Quota, totals: Totals, month: str, *, held_nano: int = 0) -> int | None:
    """Return what is left of the limit beside what is held, never below 0; None if there is no limit."""
    if quota.limit_nano is None:
        return None
    return max(0, quota.limit_nano - spent_nano(quota, totals, month) - held_nano)


def is_spent(quota: Quota, totals: Totals, month: str) -> bool:
    """Return whether nothing is left: spending has reached the limit, or was beyond it already."""
    return quota.limit_nano is not None and spent_nano(quota, totals, month) >= quota.limit_nano
