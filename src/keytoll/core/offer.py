"""Offers: the models of the catalog, as a decision needs them."""

from collections.abc import Mapping
from dataclasses import dataclass

from keytoll.core.pricing import Prices


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that can be called.

    `pool` is the cluster that serves it; `retries` how many further members the pool can fall back to.
    `upstream_model` is the model's name at the backends, or None where the pool's members differ in it.
    `running_usage`: the backends can tell the usage so far in each event of a stream, and are asked to.
    """

    model: str
    pool: str
    prices: Prices
    price_id: str
    retries: int
    upstream_model: str | None
    running_usage: bool
    context_length: int
    maximum_output: int


Offers = Mapping[str, Offer]
"""What the catalog offers, by model name."""
