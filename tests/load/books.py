"""The audit: the backend's books and the callers' against the ledger. It knows the prices by itself, not from Keytoll."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from load.backend import Served
from load.calls import Ask, Outcome

_INPUT_NANO, _OUTPUT_NANO = 1_000, 7_000
_TEMPLATE_TOKENS = 1_000_000


def nano(amount: str) -> int:
    """Return a decimal string in nano-units."""
    return int(Decimal(amount) * 10**9)


def cost_nano(number: int, output: int) -> int:
    """What a request to `counted` costs."""
    return number * _INPUT_NANO + output * _OUTPUT_NANO


def hold_nano(ask: Ask) -> int:
    """What a request to `counted` holds."""
    return (len(ask.body) + _TEMPLATE_TOKENS) * _INPUT_NANO + ask.limit * _OUTPUT_NANO


@dataclass(slots=True)
class Audit:
    """What was counted, and every violation in words."""

    answered: int = 0
    whole: int = 0
    charged: int = 0
    free: int = 0
    unsettled: int = 0
    unsettled_answered: int = 0
    backend_nano: int = 0
    ledger_nano: int = 0
    cut_nano: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Everything, a line each."""
        lines = [
            f"callers' answers by status (0: cut before one): {dict(sorted(self.statuses.items()))}",
            f"answered by the backend: {self.answered}, of which whole: {self.whole}",
            f"rows in the ledger: {self.charged} charged, {self.free} free (reached no backend)",
            f"unsettled: {self.unsettled}, of which the backend had answered: {self.unsettled_answered}",
            f"whole answers by the backend's books: {self.backend_nano} nano, by the ledger: {self.ledger_nano} nano",
            f"cut ones: {self.cut_nano} nano",
        ]
        return "\n".join([*lines, *(f"VIOLATION: {each}" for each in self.violations[:20])])


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of the requests to `counted`."""

    outcomes: Sequence[Outcome]
    served: Iterable[Served]
    rows: Sequence[Mapping[str, Any]]
    unsettled: Sequence[Mapping[str, Any]] = ()


def audit(evidence: Evidence, *, lossy: bool = False) -> Audit:
    """Compare. `lossy`: what the backend answered may be listed as unsettled instead of charged."""
    found = Audit(statuses=Counter(outcome.status for outcome in evidence.outcomes))
    outcomes = {outcome.ask.number: outcome for outcome in evidence.outcomes}
    numbers = {hold_nano(outcome.ask): number for number, outcome in outcomes.items()}
    rows = _by_number(evidence.rows, numbers, found)
    unsettled = _by_number(evidence.unsettled, numbers, found)
    served = {each.number: each for each in evidence.served if each.number in outcomes}
    found.answered, found.unsettled = len(served), len(unsettled)
    found.unsettled_answered = len(served.keys() & unsettled.keys())
    if found.unsettled_answered and not lossy:
        found.violations.append(f"answered, and unsettled: {sorted(served.keys() & unsettled.keys())[:9]}")
    for number in rows.keys() & unsettled.keys():
        found.violations.append(f"{number} is charged and unsettled")
    for number, each in served.items():
        if number in rows:
            _judge_answer(outcomes[number], each, rows[number], found)
        elif number not in unsettled:
            found.violations.append(f"{number} was answered, but is neither charged nor listed")
    for number in rows.keys() - served.keys():
        _judge_unanswered(number, rows[number], found)
    for number, outcome in outcomes.items():
        if outcome.status == 200 and number not in served:
            found.violations.append(f"{number} got an answer that the backend knows nothing of")
    return found


def check_totals(found: Audit, whose: str, used_nano: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Compare a key's running total with its rows."""
    if used_nano != (total := sum(nano(row["amount"]) for row in rows if "amount" in row)):
        found.violations.append(f"{whose}: its total is {used_nano} nano, its rows are {total}")


def _by_number(
    rows: Iterable[Mapping[str, Any]], numbers: Mapping[int, int], found: Audit
) -> dict[int, Mapping[str, Any]]:
    """Tell by what they hold which requests the rows are of."""
    known: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        number = numbers.get(nano(row["hold"]))
        if number is None:
            found.violations.append(f"nobody asked for {row['id']}, which holds {row['hold']}")
        elif number in known:
            found.violations.append(f"{number} is there twice: {row['id']} and {known[number]['id']}")
        else:
            known[number] = row
    return known


def _judge_answer(outcome: Outcome, served: Served, row: Mapping[str, Any], found: Audit) -> None:
    found.charged += 1
    amount_nano = nano(row["amount"])
    if served.whole and outcome.whole:
        found.whole += 1
        found.backend_nano += cost_nano(served.number, served.output)
        found.ledger_nano += amount_nano
        if (row["measured"], amount_nano) != ("reported", cost_nano(served.number, served.output)):
            found.violations.append(f"{served} is charged {amount_nano} nano, {row['measured']}")
        return
    found.cut_nano += amount_nano
    sent = served.output if served.whole else served.sent
    if row["measured"] == "reported" and not (
        row["input_tokens"] == served.number and outcome.events <= row["output_tokens"] <= sent
    ):
        found.violations.append(f"{served}, cut, is charged {row['input_tokens']} + {row['output_tokens']} tokens")
    if amount_nano > hold_nano(outcome.ask):
        found.violations.append(f"{served}, cut, is charged {amount_nano} nano, more than it held")


def _judge_unanswered(number: int, row: Mapping[str, Any], found: Audit) -> None:
    found.free += 1
    if nano(row["amount"]):
        found.violations.append(f"{number} never reached the backend, and is charged {row['amount']}")
