"""Usage: how much was asked for and what it cost, summed by day, key, model or owner.

The sums are kept as charges are posted, so that reading them never takes going through the charges.
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import add, attrgetter

from keytoll.core.pricing import Usage


class Group(StrEnum):
    """What usage is summed by; the order is that in which sums are sorted."""

    OWNER = "owner"
    DAY = "day"
    KEY = "key"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Sums:
    """How many requests were charged, their tokens, and what they cost."""

    requests: int = 0
    tokens: Usage = field(default_factory=Usage)
    amount_nano: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        """Return both together."""
        tokens = Usage(*map(add, _counts(self.tokens), _counts(other.tokens)))
        return Sums(self.requests + other.requests, tokens, self.amount_nano + other.amount_nano)


_counts = attrgetter(*(count.name for count in fields(Usage)))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The sums of one group: what it isn't grouped by is None. `day` is one of the billing zone, `YYYY-MM-DD`."""

    sums: Sums
    owner: str | None = None
    day: str | None = None
    key_id: str | None = None
    model: str | None = None
