"""What a call must have left in the ledger, said without Keytoll's own rules."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from keytoll.core.ledger import Measured
from real_backends.calls import Call, Expected
from real_backends.tap import Answer, Tokens

PRICE = {"input": Decimal(1), "cached_input": Decimal("0.25"), "output": Decimal(2)}
"""Per million tokens; of every model in the catalog of this run."""

_ESTIMATES = "estimated" in set(Measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A call, what the backend answered to it and to the same request asked directly, and the ledger's row.

    `wrong` is what the caller found wrong, "" for nothing.
    """

    call: Call
    wrong: str
    answer: Answer
    direct: Answer | None
    charge: Mapping[str, Any]

    @property
    def ledger(self) -> Tokens:
        """The row's tokens, all classes."""
        row = self.charge
        return Tokens(
            input=row["input_tokens"] + row["cached_input_tokens"] + row["cache_write_tokens"],
            cached=row["cached_input_tokens"],
            output=row["output_tokens"],
        )

    def faults(self) -> Iterator[str]:
        """Yield what is wrong."""
        if self.wrong:
            yield self.wrong
        yield from _FAULTS[self.call.expected](self)
        if self.direct is not None and self.direct.tokens != self.answer.tokens:
            yield f"asked directly, the backend reports {self.direct.tokens}"
        if Decimal(self.charge["amount"]) != _cost(self.ledger):
            yield f"the amount is {self.charge['amount']}, not {_cost(self.ledger)}"


def _cost(tokens: Tokens) -> Decimal:
    uncached = tokens.input - tokens.cached
    total = uncached * PRICE["input"] + tokens.cached * PRICE["cached_input"] + tokens.output * PRICE["output"]
    return total / 1_000_000


def _of_reported(outcome: Outcome) -> Iterator[str]:
    if outcome.answer.tokens is None:
        yield "the backend reported nothing"
    elif outcome.ledger != outcome.answer.tokens:
        yield "the ledger has other tokens"
    if outcome.charge["measured"] != "reported":
        yield "not charged as reported"


def _of_cut(outcome: Outcome) -> Iterator[str]:
    """A usage that came before the cut counts; else the tokens are estimated, once Keytoll can do that."""
    measured, tokens = outcome.charge["measured"], outcome.ledger
    if measured == "reported":
        if tokens != outcome.answer.tokens:
            yield "charged as reported, but the backend reported other tokens"
    elif measured != ("estimated" if _ESTIMATES else "none"):
        yield "neither reported nor estimated"
    elif (tokens.input + tokens.output > 0) != _ESTIMATES:
        yield "the tokens don't fit how they were measured"


def _of_nothing(outcome: Outcome) -> Iterator[str]:
    if outcome.answer.status < 400:
        yield "the backend didn't refuse"
    if (outcome.charge["measured"], outcome.ledger) != ("none", Tokens()):
        yield "a refused request was charged"


_FAULTS = {Expected.REPORTED: _of_reported, Expected.CUT: _of_cut, Expected.NOTHING: _of_nothing}
