"""Amounts and prices: exact integers, in and out."""

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.errors import InvalidValue
from keytoll.core.money import MAX_LIMIT_NANO, MAX_TOTAL_NANO, add_totals, currency_symbol, format_amount, parse_amount
from keytoll.core.pricing import PER_TOKENS, Prices, Usage, cost_nano


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("0.00", 0),
        ("100", 100_000_000_000),
        ("45.5", 45_500_000_000),
        ("0.000000001", 1),
        ("9000000000", MAX_LIMIT_NANO),
        ("3542971632", 3_542_971_632_000_000_000),
    ],
)
def test_amounts_are_read_exactly(text: str, nano: int) -> None:
    """User report 14: also beyond 32 bits."""
    assert parse_amount(text, field="limit") == nano


@pytest.mark.parametrize(
    "text", ["", "-5", "+5", "1e3", "NaN", "inf", "1,000", "1.", ".5", "0.0000000001", "9000000000.000000001", "１"]
)
def test_what_is_no_amount_is_refused_with_the_field_named(text: str) -> None:
    """User report 11."""
    with pytest.raises(InvalidValue) as raised:
        parse_amount(text, field="limit")
    assert raised.value.field == "limit"


@given(st.integers(0, MAX_LIMIT_NANO))
def test_an_amount_survives_being_written_and_read(nano: int) -> None:
    text = format_amount(nano)
    assert parse_amount(text, field="x") == nano
    assert Decimal(text) * 10**9 == nano
    assert len(text.partition(".")[2]) >= 2


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "0.00"), (45_500_000_000, "45.50"), (14_000, "0.000014"), (-1_500_000_000, "-1.50")]
)
def test_amounts_are_written_for_people(nano: int, text: str) -> None:
    assert format_amount(nano) == text


def test_a_currency_without_a_symbol_is_shown_by_its_code() -> None:
    assert [currency_symbol(code) for code in ("CNY", "USD", "CHF")] == ["¥", "$", "CHF "]


def test_a_total_beyond_64_bits_is_refused_never_wrapped() -> None:
    assert add_totals(MAX_TOTAL_NANO - 1, 1) == MAX_TOTAL_NANO
    with pytest.raises(OverflowError):
        add_totals(MAX_TOTAL_NANO, 1)


counts = st.integers(0, 2**40)
prices = st.builds(
    Prices,
    **{name: st.integers(0, MAX_LIMIT_NANO) for name in Prices.__dataclass_fields__},
)
usages = st.builds(Usage, **dict.fromkeys(Usage.__dataclass_fields__, counts))


@given(usages, prices)
def test_a_cost_is_the_exact_rational_sum_rounded_half_even_once(usage: Usage, price: Prices) -> None:
    exact = Fraction(price.request) + sum(
        Fraction(getattr(usage, name) * getattr(price, name), 1_000_000)
        for name in ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output")
    )
    assert cost_nano(usage, price) == round(exact)  # Fraction's round is half-even


def flat(price: int) -> Prices:
    return Prices(
        input=price, output=price, cached_input=price, cache_write=price, audio_input=price, audio_output=price
    )


@pytest.mark.parametrize(("tokens", "nano"), [(1, 0), (3, 2), (5, 2), (7, 4), (2, 1)])
def test_half_a_nano_unit_is_rounded_to_even(tokens: int, nano: int) -> None:
    price = flat(PER_TOKENS // 2)
    assert cost_nano(Usage(input=tokens), price) == nano
    assert Decimal(tokens * 0.5).quantize(Decimal(1), ROUND_HALF_EVEN) == nano


@pytest.mark.parametrize(("prompt", "cached"), [(2_006, 1_920), (262_960, 257_955)])
def test_cached_tokens_are_charged_at_their_price_and_only_once(prompt: int, cached: int) -> None:
    """User report 18."""
    price = Prices(
        input=4_000_000_000,
        cached_input=1_000_000_000,
        output=0,
        cache_write=0,
        audio_input=0,
        audio_output=0,
    )
    usage = Usage(input=prompt - cached, cached_input=cached)
    assert cost_nano(usage, price) == ((prompt - cached) * 4_000_000_000 + cached * 1_000_000_000) // 1_000_000


def test_prices_are_named_by_their_content() -> None:
    assert flat(5).id == flat(5).id
    assert flat(5).id != flat(6).id
    with pytest.raises(ValueError, match="price"):
        flat(-1)


@given(prices)
def test_prices_survive_their_way_through_metadata(price: Prices) -> None:
    assert Prices.from_text(price.as_text) == price


@pytest.mark.parametrize("text", ["", "1 2 3", "1 2 3 4 5 6 7 8", "1 2 3 4 5 6 x", "-1 2 3 4 5 6 7"])
def test_what_is_no_prices_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Prices.from_text(text)
