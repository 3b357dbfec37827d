"""Sifting a batch: which of its charges are new, given what the ledger holds of their decisions."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from keytoll.core.ledger import Charge, Kind, correction
from keytoll.store.base import Batch
from keytoll.store.sql.transactions import Row


@dataclass(slots=True)
class Known:
    """What the ledger holds by decision: the fingerprint of what settled it, the id of the row that gave it up."""

    settled: dict[str, bytes] = field(default_factory=dict)
    unsettled: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Iterable[Row]) -> "Known":
        """Return what the rows of decisions tell: decision, kind, id and fingerprint of each."""
        known = cls()
        for decision_id, kind, id_, fingerprint in found:
            if kind == Kind.UNSETTLED:
                known.unsettled[str(decision_id)] = id_
            else:
                known.settled[str(decision_id)] = fingerprint
        return known


@dataclass(slots=True)
class Sifted:
    """What is new by decision, and what is not."""

    new: dict[str, Charge] = field(default_factory=dict)
    unsettled: dict[str, Charge] = field(default_factory=dict)
    conflicts: list[Charge] = field(default_factory=list)
    repeated: int = 0


def sift(batch: Batch, known: Known) -> Sifted:
    """Part the charges into new, repeated and conflicting ones, also among themselves: a decision's first wins."""
    sifted = Sifted()
    for charge in batch.charges:
        decision_id = str(charge.entry.decision_id)
        if decision_id in known.settled:
            same = known.settled[decision_id] == charge.entry.fingerprint
        elif decision_id in sifted.new:
            same = sifted.new[decision_id].entry == charge.entry
        else:
            sifted.new[decision_id] = correction(charge) if decision_id in known.unsettled else charge
            continue
        if same:
            sifted.repeated += 1
        else:
            sifted.conflicts.append(charge)
    sifted.unsettled = _given_up(batch.unsettled, {*known.settled, *known.unsettled, *sifted.new})
    return sifted


def _given_up(unsettled: Iterable[Charge], with_a_row: Container[str]) -> dict[str, Charge]:
    by_decision = {str(row.entry.decision_id): row for row in unsettled}
    return {decision_id: row for decision_id, row in by_decision.items() if decision_id not in with_a_row}
