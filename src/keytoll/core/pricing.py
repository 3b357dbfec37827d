"""Prices and what a usage costs: one exact integer sum, divided once, rounded half-even once."""

import hashlib
import json
from dataclasses import dataclass, fields
from operator import attrgetter

from keytoll.core.money import MAX_LIMIT_NANO

PER_TOKENS = 1_000_000
"""Token prices are nano-units for this many tokens."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, each in exactly one class. `reasoning` is the part of `output` that was spent on it."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    audio_input: int = 0
    audio_output: int = 0
    reasoning: int = 0


tokens_of = attrgetter(*(f.name for f in fields(Usage)))
"""Returns the counts of a usage, in the order of its fields."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Nano-units per million tokens of each class, and nano-units for each request."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    audio_input: int
    audio_output: int
    request: int = 0

    @classmethod
    def from_text(cls, text: str) -> "Prices":
        """Return the prices that `as_text` gave. Raises ValueError."""
        numbers = [int(number) for number in text.split(" ")]
        if len(numbers) != len(fields(cls)):
            raise ValueError("not prices")
        return cls(*numbers)

    @property
    def as_text(self) -> str:
        """All prices in one line, to go through Envoy's metadata, whose numbers are doubles."""
        return " ".join(str(getattr(self, f.name)) for f in fields(self))

    def __post_init__(self) -> None:
        if any(not 0 <= getattr(self, f.name) <= MAX_LIMIT_NANO for f in fields(self)):
            raise ValueError("a price is from 0 to 9,000,000,000")

    @property
    def id(self) -> str:
        """The name of these prices: a hash of their content, so that a version can never change under its name."""
        content = json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, sort_keys=True)
        return "price_" + hashlib.sha256(content.encode()).hexdigest()[:32]


def cost_nano(usage: Usage, prices: Prices) -> int:
    """Return what the usage costs, in nano-units.

    The division by a million happens once, after the exact sum, and rounds half to even (IEEE 754 roundTiesToEven), so
    that rounding favours neither side over many charges. Reasoning is part of the output and isn't added again.
    """
    scaled = (
        usage.input * prices.input
        + usage.cached_input * prices.cached_input
        + usage.cache_write * prices.cache_write
        + usage.output * prices.output
        + usage.audio_input * prices.audio_input
        + usage.audio_output * prices.audio_output
        + prices.request * PER_TOKENS
    )
    return _divide_half_even(scaled, PER_TOKENS)


def _divide_half_even(numerator: int, denominator: int) -> int:
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    if twice > denominator or (twice == denominator and quotient % 2):
        quotient += 1
    return quotient
