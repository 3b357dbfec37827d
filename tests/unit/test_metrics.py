"""Metrics: bounded in number, whatever callers, backends or log lines say."""

from dataclasses import replace
from uuid import UUID

from prometheus_client import generate_latest

from keytoll.core.ledger import Entry, Reported, settle
from keytoll.core.pricing import Prices, Usage
from keytoll.metrics import Metrics

PRICES = Prices(input=1, output=1, cached_input=1, cache_write=1, audio_input=1, audio_output=1)
ENTRY = Entry(
    decision_id=UUID(int=0),
    key_id="key_of_somebody",
    owner="users/somebody",
    model="m",
    endpoint="chat/completions",
    price_id=PRICES.id,
    admitted_at_us=0,
    month="2026-11",
    status=200,
    attempts=1,
    reported=Reported(Usage(input=1_000_000, output=2_000_000, reasoning=3), output_told=True),
)


def settled(metrics: Metrics, models: int) -> int:
    """Count a charge each of so many models, keys and owners; return how many series there are."""
    charges = (
        settle(
            replace(ENTRY, model=f"junk-{n}", key_id=f"key_of_somebody_{n}", owner=f"users/somebody-{n}"),
            PRICES,
            day="2026-09-21",
            settled_at_us=1,
        )
        for n in range(models)
    )
    metrics.count_charges(charges)
    return len(generate_latest(metrics.registry).splitlines())


def test_series_are_bounded_and_what_is_beyond_goes_under_other() -> None:
    """User report 29: neither junk model names nor keys and owners make series of their own without end."""
    metrics = Metrics()
    full = settled(metrics, 1000)
    assert settled(metrics, 10_000) == full
    assert settled(Metrics(), 10_000) == full
    assert b"somebody" not in generate_latest(metrics.registry)


def test_what_goes_under_other_is_counted_all_the_same() -> None:
    """User report 29: the sum over all models misses nothing."""
    metrics = Metrics()
    settled(metrics, 1000)
    requests = [s for f in metrics.registry.collect() for s in f.samples if s.name == "keytoll_settled_requests_total"]
    tokens = [s for f in metrics.registry.collect() for s in f.samples if s.name == "keytoll_tokens_total"]
    assert sum(sample.value for sample in requests) == 1000
    assert sum(sample.value for sample in tokens if sample.labels["class"] == "output") == 1000 * 2_000_000
    assert [sample.value for sample in requests if sample.labels["model"] == "other"] == [800]
