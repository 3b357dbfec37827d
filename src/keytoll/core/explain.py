"""A charge explained: its sum line by line, so that anyone can check it by hand.

Products are exact: a token's price, in nano-units per million, has its exact product in femto-units (10^-15) of the
currency. Only the sum of them is rounded, once, half to even, to nano-units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keytoll.core.endpoints import BY_NAME
from keytoll.core.ledger import Charge, Entry, Kind, Measured, is_served
from keytoll.core.pricing import PER_TOKENS, Prices, Usage, cost_nano

FEMTO = 10**15
CLASSES = ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output")
"""The classes of tokens, by the names that usages and prices have for them."""

REQUEST = "request"
"""The item of a price that is paid for each request, whatever its tokens."""

_FEMTO_PER_NANO = 1_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """One item of a sum: `count` of it at `price_nano` for each `per` of them."""

    item: str
    count: int
    price_nano: int
    per: int

    @property
    def product_femto(self) -> int:
        """What it comes to, exactly."""
        return self.count * self.price_nano * _FEMTO_PER_NANO // self.per  # `per` divides a million: nothing is lost


@dataclass(frozen=True, slots=True)
class Estimate:
    """How the tokens of a class were estimated: `count` of `source`, at `thousandths` of a token each, rounded up."""

    item: str
    source: str
    count: int
    thousandths: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The sum of a charge.

    `served`: a backend worked on it; where none did, nothing is charged and there are no lines. `capped`: as an
    estimate, it was cut to what was held. `adds_up`: the ledger's amount is what the sum comes to.
    """

    served: bool
    lines: tuple[Line, ...]
    rounded_nano: int
    capped: bool
    adds_up: bool
    estimates: tuple[Estimate, ...]

    @property
    def sum_femto(self) -> int:
        """The exact sum of the lines."""
        return sum(line.product_femto for line in self.lines)

    @property
    def rounding_femto(self) -> int:
        """What rounding added, or took away where it is negative: half a nano-unit at most."""
        return self.rounded_nano * _FEMTO_PER_NANO - self.sum_femto


def explain(charge: Charge) -> Explanation:
    """Return how the amount of a row comes about."""
    served = charge.kind is not Kind.UNSETTLED and is_served(charge.entry)
    rounded_nano = cost_nano(charge.usage, charge.prices) if served else 0
    capped_nano = rounded_nano if charge.measured is Measured.REPORTED else _capped_nano(rounded_nano, charge.entry)
    return Explanation(
        served=served,
        lines=sum_lines(charge.usage, charge.prices) if served else (),
        rounded_nano=rounded_nano,
        capped=capped_nano < rounded_nano,
        adds_up=charge.amount_nano == capped_nano,
        estimates=tuple(_estimates(charge)) if charge.measured is Measured.ESTIMATED else (),
    )


def sum_lines(usage: Usage, prices: Prices) -> tuple[Line, ...]:
    """Return the items that a usage costs: each class of tokens, those without any too, and the request itself."""
    tokens = (Line(item, getattr(usage, item), getattr(prices, item), PER_TOKENS) for item in CLASSES)
    return (*tokens, Line(REQUEST, 1, prices.request, 1))


def price_from_us(history: Sequence[tuple[int, str, int]], charge: Charge) -> int | None:
    """Return the instant from which the price of a charge applied; None for a model's first, that applies from ever on.

    `history` is what was noted of the model: from when (us), the price's id, and when that was noted (us).
    """
    price_id, admitted_at_us = charge.entry.price_id, charge.entry.admitted_at_us
    instants = [from_us for from_us, noted_id, _ in history if noted_id == price_id and from_us <= admitted_at_us]
    return max(instants, default=0) or None


def format_femto(femto: int) -> str:
    """Return the exact decimal string, with two decimals or as many as it needs: `0.00401`, `0.000000000000001`."""
    sign, femto = ("-", -femto) if femto < 0 else ("", femto)
    whole, fraction = divmod(femto, FEMTO)
    return f"{sign}{whole}.{f'{fraction:015d}'.rstrip('0').ljust(2, '0')}"


def _capped_nano(amount_nano: int, entry: Entry) -> int:
    return amount_nano if entry.hold_nano is None else min(amount_nano, entry.hold_nano)


def _estimates(charge: Charge) -> list[Estimate]:
    entry, endpoint = charge.entry, BY_NAME.get(charge.entry.endpoint)
    estimates = []
    if entry.reported is None and endpoint is not None and endpoint.text_in:
        rate = entry.rates.input_byte
        estimates.append(Estimate("input", "request_bytes", entry.request_bytes, rate, charge.usage.input))
    if entry.reported is not None or (endpoint is not None and endpoint.outputs and endpoint.text_out):
        estimates.append(_output_estimate(entry, charge.usage.output))
    return estimates


def _output_estimate(entry: Entry, tokens: int) -> Estimate:
    if entry.events is not None:
        return Estimate("output", "events", entry.events, entry.rates.event, tokens)
    return Estimate("output", "answer_bytes", entry.answer_bytes, entry.rates.output_byte, tokens)
