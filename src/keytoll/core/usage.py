"""Usage: how much was asked for and what it cost, summed by day, key, model or owner.

The sums are kept as charges are posted, so that reading them never takes going through the charges.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from operator import add

from keytoll.core.ledger import Charge
from keytoll.core.pricing import Usage, tokens_of


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
        tokens = Usage(*map(add, tokens_of(self.tokens), tokens_of(other.tokens)))
        return Sums(self.requests + other.requests, tokens, self.amount_nano + other.amount_nano)

    @classmethod
    def of(cls, charges: Collection[Charge]) -> "Sums":
        """Return the sums of charges, at least one."""
        tokens = map(sum, zip(*(tokens_of(charge.usage) for charge in charges), strict=True))
        return cls(len(charges), Usage(*tokens), sum(charge.amount_nano for charge in charges))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The sums of one group: what it isn't grouped by is None. `day` is one of the billing zone, `YYYY-MM-DD`."""

    sums: Sums
    owner: str | None = None
    day: str | None = None
    key_id: str | None = None
    model: str | None = None
