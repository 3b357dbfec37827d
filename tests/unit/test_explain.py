"""Charges explained: the sum that is shown is the sum that was charged."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.endpoints import ENDPOINTS
from keytoll.core.explain import CLASSES, FEMTO, Estimate, explain, format_femto, price_from_us, sum_lines
from keytoll.core.ledger import Entry, Measured, Reported, correction, settle, unsettled
from keytoll.core.money import MAX_LIMIT_NANO, NANO
from keytoll.core.pricing import Prices, Usage, cost_nano
from keytoll.core.rates import Rates

PRICES = Prices(
    input=4 * NANO, output=12 * NANO, cached_input=NANO, cache_write=0, audio_input=0, audio_output=0, request=5
)
ENTRY = Entry(
    decision_id=UUID(int=7),
    key_id="key_1",
    owner="users/alice",
    model="m",
    endpoint="chat/completions",
    price_id=PRICES.id,
    admitted_at_us=1_000,
    month="1970-01",
    status=200,
    attempts=1,
    reported=Reported(Usage(input=1_000, cached_input=3, output=20, reasoning=8), output_told=True),
)

counts = st.integers(0, 2**40)
prices = st.builds(Prices, **{name: st.integers(0, MAX_LIMIT_NANO) for name in Prices.__dataclass_fields__})
usages = st.builds(Usage, **dict.fromkeys(Usage.__dataclass_fields__, counts))
entries = st.builds(
    replace,
    st.just(ENTRY),
    endpoint=st.sampled_from([*(endpoint.name for endpoint in ENDPOINTS.values()), "gone"]),
    status=st.sampled_from([0, 200, 400, 503]),
    attempts=st.integers(0, 2),
    reported=st.none() | st.builds(Reported, usages, output_told=st.booleans()),
    request_bytes=st.integers(0, 2**25),
    answer_bytes=st.integers(0, 2**25),
    events=st.none() | st.integers(0, 10**6),
    hold_nano=st.none() | st.integers(0, 2**63 - 1),
    rates=st.builds(Rates, *[st.integers(0, 5_000)] * 3),
)


@given(usages, prices)
def test_lines_add_up_to_the_exact_sum_whose_rounding_is_the_cost(usage: Usage, price: Prices) -> None:
    lines = sum_lines(usage, price)
    exact = sum(Fraction(line.count * line.price_nano, line.per) for line in lines)
    assert sum(line.product_femto for line in lines) == exact * 1_000_000
    assert round(exact) == cost_nano(usage, price)


@given(entries, prices)
def test_whatever_is_settled_its_explanation_adds_up(entry: Entry, price: Prices) -> None:
    """Reported, estimated, refused or cut: lines, rounding and the cut to the hold lead to the ledger's amount."""
    charge = settle(entry, price, day="2026-09-21", settled_at_us=2_000)
    found = explain(charge)
    assert found.adds_up
    assert found.sum_femto + found.rounding_femto == found.rounded_nano * 1_000_000
    assert abs(found.rounding_femto) <= 500_000
    assert charge.amount_nano == (charge.entry.hold_nano if found.capped else found.rounded_nano)
    assert found.served or (found.lines, charge.amount_nano) == ((), 0)


@given(entries)
def test_an_estimate_is_told_with_what_it_was_made_of(entry: Entry) -> None:
    """Count and rate, rounded up, are the tokens that were charged; what was reported is not called estimated."""
    charge = settle(entry, PRICES, day="2026-09-21", settled_at_us=2_000)
    estimates = explain(charge).estimates
    assert bool(estimates) == (charge.measured is Measured.ESTIMATED)
    for estimate in estimates:
        assert getattr(entry, estimate.source) == estimate.count
        assert -(-estimate.count * estimate.thousandths // 1000) == estimate.tokens
        assert getattr(charge.usage, estimate.item) == estimate.tokens
    known = {estimate.item for estimate in estimates}
    if estimates and entry.reported is None:
        assert all(getattr(charge.usage, name) == 0 for name in CLASSES if name not in known)


def test_a_charge_is_explained_line_by_line() -> None:
    found = explain(settle(ENTRY, PRICES, day="2026-09-21", settled_at_us=2_000))
    told = [(line.item, line.count, line.price_nano, line.per, line.product_femto) for line in found.lines]
    assert told == [
        ("input", 1_000, 4 * NANO, 1_000_000, 4 * FEMTO // 1_000),
        ("cached_input", 3, NANO, 1_000_000, 3 * FEMTO // 1_000_000),
        ("cache_write", 0, 0, 1_000_000, 0),
        ("output", 20, 12 * NANO, 1_000_000, 240 * FEMTO // 1_000_000),
        ("audio_input", 0, 0, 1_000_000, 0),
        ("audio_output", 0, 0, 1_000_000, 0),
        ("request", 1, 5, 1, 5_000_000),
    ]
    assert (found.rounded_nano, found.capped, found.adds_up, found.estimates) == (4_243_005, False, True, ())


def test_an_estimate_beyond_its_hold_is_told_to_be_cut_and_a_report_is_not() -> None:
    cut = replace(ENTRY, reported=None, request_bytes=4_001, events=30, hold_nano=1_000_000)
    found = explain(settle(cut, PRICES, day="2026-09-21", settled_at_us=2_000))
    assert found.estimates == (
        Estimate("input", "request_bytes", 4_001, 250, 1_001),
        Estimate("output", "events", 30, 1_000, 30),
    )
    assert (found.rounded_nano, found.capped, found.adds_up) == (4_364_005, True, True)
    reported = settle(replace(ENTRY, hold_nano=1_000_000), PRICES, day="2026-09-21", settled_at_us=2_000)
    assert (explain(reported).capped, reported.beyond_hold_nano) == (False, 3_243_005)


def test_an_amount_that_is_not_what_its_sum_gives_is_told() -> None:
    charge = settle(ENTRY, PRICES, day="2026-09-21", settled_at_us=2_000)
    assert not explain(replace(charge, amount_nano=charge.amount_nano + 1)).adds_up
    assert not explain(replace(charge, amount_nano=charge.amount_nano - 1)).adds_up


def test_an_unsettled_row_has_no_sum_and_its_correction_has_and_refers_to_it() -> None:
    row = unsettled(ENTRY, PRICES, day="2026-09-21", settled_at_us=2_000)
    assert (explain(row).lines, explain(row).adds_up, row.refers_to) == ((), True, None)
    corrected = correction(settle(ENTRY, PRICES, day="2026-09-21", settled_at_us=3_000))
    assert explain(corrected) == explain(settle(ENTRY, PRICES, day="2026-09-21", settled_at_us=3_000))
    assert corrected.refers_to == row.id


@pytest.mark.parametrize(
    ("price_id", "admitted_at_us", "from_us"),
    [("a", 5, None), ("a", 15, None), ("b", 25, 20), ("a", 35, 30), ("a", 30, 30), ("a", 29, None), ("gone", 99, None)],
)
def test_a_price_that_comes_back_applies_from_its_latest_date_before_the_admission(
    price_id: str, admitted_at_us: int, from_us: int | None
) -> None:
    history = [(0, "a", 1), (20, "c", 1), (20, "b", 2), (30, "a", 1), (90, "b", 1)]
    entry = replace(ENTRY, price_id=price_id, admitted_at_us=admitted_at_us)
    assert price_from_us(history, settle(entry, PRICES, day="2026-09-21", settled_at_us=100)) == from_us


@given(st.integers(-(10**40), 10**40))
def test_an_exact_amount_is_written_whole(femto: int) -> None:
    text = format_femto(femto)
    assert Decimal(text).as_integer_ratio() == Fraction(femto, FEMTO).as_integer_ratio()
    assert 2 <= len(text.partition(".")[2]) <= 15
