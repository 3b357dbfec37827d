"""Holds: the worst cases of requests under way, and whether another one fits beside them.

> A key's final spend is at most its limit plus one request, plus what a backend reported beyond a request's worst case.

A hold belongs to the month of its request's admission, as its charge will.
"""

from typing import NamedTuple

from keytoll.core.allowance import Allowance
from keytoll.core.quota import Quota, QuotaKind, Totals, left_nano, spent_nano
from keytoll.core.worst_case import UNBOUNDED


# Held and KeyHolds are made for every Check, and a tuple is made in a fraction of a frozen dataclass's time.
class Held(NamedTuple):
    """What the requests under way of one key hold: how many they are, the sum of the bounded ones, in nano-units, and
    how many are unbounded."""

    count: int = 0  # type: ignore[assignment]  # nobody counts by what tuples have under this name
    amount_nano: int = 0
    unbounded: int = 0

    def plus(self, worst_nano: int | None) -> "Held":
        """Return the sum with one more hold."""
        if worst_nano is UNBOUNDED:
            return Held(self.count + 1, self.amount_nano, self.unbounded + 1)
        return Held(self.count + 1, self.amount_nano + worst_nano, self.unbounded)

    def minus(self, worst_nano: int | None) -> "Held":
        """Return the sum without a hold that is in it."""
        if worst_nano is UNBOUNDED:
            return Held(self.count - 1, self.amount_nano, self.unbounded - 1)
        return Held(self.count - 1, self.amount_nano - worst_nano, self.unbounded)


NOTHING_HELD = Held()


class KeyHolds(NamedTuple):
    """What a key's requests under way hold, in all and by the month of their admission."""

    in_all: Held = NOTHING_HELD
    by_month: tuple[tuple[str, Held], ...] = ()

    def counting(self, quota: Quota, month: str) -> Held:
        """Return the holds that count towards a quota: this month's under a monthly one, else all of them."""
        if quota.kind is not QuotaKind.MONTHLY:
            return self.in_all
        return self.of_month(month)

    def of_month(self, month: str) -> Held:
        """Return the holds of requests that were admitted in a month."""
        for name, held in self.by_month:
            if name == month:
                return held
        return NOTHING_HELD

    def plus(self, month: str, worst_nano: int | None) -> "KeyHolds":
        """Return these holds with one more."""
        in_all = self.in_all.plus(worst_nano)
        if not self.by_month or self._is_all_of(month):
            return KeyHolds(in_all, ((month, in_all),))
        return self._with(month, self.of_month(month).plus(worst_nano), in_all)

    def minus(self, month: str, worst_nano: int | None) -> "KeyHolds":
        """Return these holds without one that is among them."""
        in_all = self.in_all.minus(worst_nano)
        if self._is_all_of(month):
            return KeyHolds(in_all, ((month, in_all),) if in_all.count else ())
        return self._with(month, self.of_month(month).minus(worst_nano), in_all)

    def _is_all_of(self, month: str) -> bool:
        return len(self.by_month) == 1 and self.by_month[0][0] == month

    def _with(self, month: str, held: Held, in_all: Held) -> "KeyHolds":
        others = tuple([pair for pair in self.by_month if pair[0] != month])
        return KeyHolds(in_all, (*others, (month, held)) if held.count else others)


def left_beside_nano(
    *, quota: Quota, totals: Totals, holds: KeyHolds, month: str, worst_nano: int | None = 0
) -> int | None:
    """Return what is left of a key's limit beside its holds and one more of `worst_nano`, None if it has no limit.

    What can't be bounded holds it all.
    """
    if quota.limit_nano is None:
        return None
    held = holds.counting(quota, month)
    if held.unbounded or worst_nano is UNBOUNDED:
        return 0
    return left_nano(quota, totals, month, held_nano=held.amount_nano + worst_nano)


def fits(
    *,
    quota: Quota,
    totals: Totals,
    holds: KeyHolds,
    month: str,
    worst_nano: int | None,
    allowance: Allowance | None = None,
) -> bool:
    """Return whether a request of this worst case may run beside those under way. The key is not spent.

    Either all of it fits, or the key holds nothing: a key with money left always gets one request through. `allowance`
    is None for a replica that is alone; else it must fit into that, and the other way is open to who has the whole only.
    """
    if quota.limit_nano is None:
        return True
    held = holds.counting(quota, month)
    if held.count == 0 and (allowance is None or allowance.whole):
        return True
    if held.unbounded or worst_nano is UNBOUNDED:
        return False
    if allowance is None:
        return spent_nano(quota, totals, month) + held.amount_nano + worst_nano <= quota.limit_nano
    return held.amount_nano + worst_nano <= allowance.granted_nano


def unused_nano(allowance: Allowance, held: Held) -> int:
    """Return what a replica can give back of its allowance: what none of the month's requests under way may cost."""
    return 0 if held.unbounded else max(0, allowance.granted_nano - held.amount_nano)
