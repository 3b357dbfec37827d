"""Offers: the models of the catalog, as a decision needs them."""

from collections.abc import Mapping
from dataclasses import dataclass

from keytoll.core.pricing import Prices
from keytoll.core.rates import Rates


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """Prices and the instant from which they apply; `id` names them in the store."""

    from_us: int
    prices: Prices
    id: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that can be called.

    `pool` is the cluster that serves it; `retries` how many further members the pool can fall back to.
    `upstream_model` is the model's name at the backends, or None where the pool's members differ in it.
    `prices` holds at least one version, the earliest first; the first applies from ever on.
    `running_usage`: the backends can tell the usage so far in each event of a stream, and are asked to.
    Tokens: `context_length` and `maximum_output` of the model; `template_tokens`, what the chat template or the
    tokenizer may add to each input; `reasoning_beyond`, what the backend may reason beyond a limit on its output.
    `takes_media`: images or audio in the body can be far more tokens than bytes. `rates` is what an estimate counts by,
    where a backend reports no usage; they are the operator's, since rates that are learned from callers could be bent by
    them.
    """

    model: str
    pool: str
    prices: tuple[PriceVersion, ...]
    retries: int
    upstream_model: str | None
    running_usage: bool
    context_length: int
    maximum_output: int
    template_tokens: int = 256
    reasoning_beyond: int = 0
    takes_media: bool = False
    rates: Rates = Rates()

    def prices_at(self, at_us: int) -> PriceVersion:
        """Return the version that applies to a request admitted at the instant."""
        for version in reversed(self.prices):
            if version.from_us <= at_us:
                return version
        return self.prices[0]


Offers = Mapping[str, Offer]
"""What the catalog offers, by model name."""
