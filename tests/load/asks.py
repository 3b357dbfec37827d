"""Mixes of requests."""

from collections.abc import Iterator
from random import Random

from load.calls import Ask


def mixed(random: Random, *, first: int = 10_000) -> Iterator[Ask]:
    """Requests to `counted` without end: half are streams, of which the caller leaves every twentieth early."""
    number = first
    while True:
        stream = number % 2 == 0
        output = random.randint(3, 12)
        yield Ask(
            number=number,
            output=output,
            limit=number,
            stream=stream,
            delay_ms=random.randint(5, 30) if stream else random.randint(0, 300),
            cut_after=random.randint(1, output - 1) if stream and random.random() < 0.05 else None,
        )
        number += 1


def costly(*, first: int, output: int, limit: int, delay_ms: int, stream: bool = False) -> Iterator[Ask]:
    """Requests to `exact` without end, which hold 0.001 for each token of `limit` and cost as much for each made."""
    number = first
    while True:
        yield Ask(number=number, output=output, limit=limit, model="exact", stream=stream, delay_ms=delay_ms)
        number += 1
