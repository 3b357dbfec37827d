"""Settling one entry: usage normalised once, and what it costs."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.ledger import Entry, Measured, settle, usage_from
from keytoll.core.pricing import Prices, Usage

PRICES = Prices(
    input=4_000_000_000,
    cached_input=1_000_000_000,
    cache_write=5_000_000_000,
    output=12_000_000_000,
    audio_input=40_000_000_000,
    audio_output=80_000_000_000,
    request=0,
)
ENTRY = Entry(
    decision_id=UUID("01923f5e-0000-7000-8000-000000000001"),
    key_id="key_1",
    owner="users/alice",
    model="m",
    endpoint="chat/completions",
    price_id=PRICES.id,
    admitted_at_us=1,
    month="2026-11",
    status=200,
    attempts=1,
    usage=Usage(input=10, output=5),
)


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        # OpenAI: details are part of the sums
        ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, Usage(input=10, output=5)),
        (
            {"prompt_tokens": 2006, "cached_tokens": 1920, "completion_tokens": 300},
            Usage(input=86, cached_input=1920, output=300),
        ),
        # user report 20: reasoning is part of the output and is not added to it
        (
            {"prompt_tokens": 1, "completion_tokens": 482, "reasoning_tokens": 448},
            Usage(input=1, output=482, reasoning=448),
        ),
        (
            {"prompt_tokens": 100, "audio_input_tokens": 30, "completion_tokens": 50, "audio_output_tokens": 20},
            Usage(input=70, audio_input=30, output=30, audio_output=20),
        ),
        # the Responses API's names, still inclusive
        (
            {"input_tokens": 36, "cached_tokens": 6, "output_tokens": 87, "reasoning_tokens": 0},
            Usage(input=30, cached_input=6, output=87),
        ),
        # user report 19: written to the cache and counted in the prompt as well
        ({"prompt_tokens": 100, "cache_creation_input_tokens": 40}, Usage(input=60, cache_write=40)),
        # Anthropic: the cache comes on top
        (
            {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7, "output_tokens": 3},
            Usage(input=10, cached_input=5, cache_write=7, output=3),
        ),
        # user report 24: zeros are zeros
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        ({"prompt_tokens": 8}, Usage(input=8)),
        # a part that is larger than its whole
        ({"prompt_tokens": 5, "cached_tokens": 9}, Usage(cached_input=5)),
        ({"prompt_tokens": 5, "audio_input_tokens": 9, "cached_tokens": 2}, Usage(cached_input=2, audio_input=3)),
    ],
)
def test_every_token_is_counted_in_exactly_one_class(reported: dict[str, Any], usage: Usage) -> None:
    assert usage_from(reported) == usage


@pytest.mark.parametrize(
    "reported",
    [
        {},
        {"unrelated": 5},
        {"cached_tokens": 5},
        {"prompt_tokens": -1},
        {"prompt_tokens": 1.5},
        {"prompt_tokens": "5"},
        {"prompt_tokens": True},
        {"prompt_tokens": 1e300},
        {"prompt_tokens": float("nan")},
        {"prompt_tokens": 5, "completion_tokens": None},
    ],
)
def test_garbage_is_no_usage_and_never_a_charge(reported: dict[str, Any]) -> None:
    assert usage_from(reported) is None


leaves = st.integers(0, 10**9)


@given(
    st.fixed_dictionaries(
        {"prompt_tokens": leaves, "completion_tokens": leaves},
        optional={
            "cached_tokens": leaves,
            "audio_input_tokens": leaves,
            "audio_output_tokens": leaves,
            "reasoning_tokens": leaves,
            "cache_creation_input_tokens": leaves,
        },
    )
)
def test_the_classes_add_up_to_what_was_reported(reported: dict[str, int]) -> None:
    usage = usage_from(reported)
    assert usage is not None
    parts = (usage.input, usage.cached_input, usage.cache_write, usage.audio_input, usage.output, usage.audio_output)
    assert min(parts) >= 0
    assert sum(parts[:4]) == reported["prompt_tokens"]
    assert sum(parts[4:]) == reported["completion_tokens"]


def test_a_reported_usage_is_charged_at_the_entrys_prices() -> None:
    charge = settle(ENTRY, PRICES, settled_at_us=9)
    assert charge.amount_nano == 10 * 4_000 + 5 * 12_000
    assert charge.measured is Measured.REPORTED
    assert charge.id == "chg_01923f5e000070008000000000000001"


@pytest.mark.parametrize("status", [0, 400, 404, 429, 500, 503])
def test_a_refused_or_cut_request_is_a_row_of_nothing(status: int) -> None:
    charge = settle(replace(ENTRY, status=status), PRICES, settled_at_us=9)
    assert (charge.amount_nano, charge.usage, charge.measured) == (0, Usage(), Measured.NONE)


def test_an_answer_without_usage_is_a_row_that_says_so() -> None:
    charge = settle(replace(ENTRY, usage=None), PRICES, settled_at_us=9)
    assert (charge.amount_nano, charge.measured) == (0, Measured.NONE)


def test_the_price_of_a_request_comes_on_top() -> None:
    charge = settle(ENTRY, replace(PRICES, request=1_000), settled_at_us=9)
    assert charge.amount_nano == 10 * 4_000 + 5 * 12_000 + 1_000


@pytest.mark.parametrize(
    "change",
    [{"status": 201}, {"attempts": 2}, {"usage": Usage(input=11, output=5)}, {"usage": None}, {"key_id": "key_2"}],
)
def test_another_entry_under_the_same_id_is_told_apart_by_its_facts(change: dict[str, Any]) -> None:
    assert replace(ENTRY, **change).fingerprint != ENTRY.fingerprint
    assert replace(ENTRY).fingerprint == ENTRY.fingerprint
