"""Settling one entry: usage normalised once, and what it costs."""

from dataclasses import fields, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.ledger import (
    Charge,
    Entry,
    Kind,
    Measured,
    Reported,
    correction,
    settle,
    unsettled,
    usage_from,
)
from keytoll.core.pricing import Prices, Usage
from keytoll.core.rates import Rates

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
    reported=Reported(Usage(input=10, output=5), output_told=True),
    request_bytes=100,
    answer_bytes=40,
    hold_nano=10**12,
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
        (
            {"prompt_tokens": 100, "cached_tokens": 10, "cache_write_tokens": 40},
            Usage(input=50, cached_input=10, cache_write=40),
        ),
        ({"input_tokens": 100, "cache_write_tokens": 40}, Usage(input=60, cache_write=40)),
        # Anthropic: the cache comes on top
        (
            {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7, "output_tokens": 3},
            Usage(input=10, cached_input=5, cache_write=7, output=3),
        ),
        # user report 24: zeros are zeros
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        ({"prompt_tokens": 8}, Usage(input=8)),
        # rerankers: all that they tell is a total
        ({"total_tokens": 9}, Usage(input=9)),
        ({"total_tokens": 9, "prompt_tokens": 4}, Usage(input=4)),
        # a part that is larger than its whole
        ({"prompt_tokens": 5, "cached_tokens": 9}, Usage(cached_input=5)),
        ({"prompt_tokens": 5, "audio_input_tokens": 9, "cached_tokens": 2}, Usage(cached_input=2, audio_input=3)),
    ],
)
def test_every_token_is_counted_in_exactly_one_class(reported: dict[str, Any], usage: Usage) -> None:
    found = usage_from(reported)
    assert found is not None
    assert found.usage == usage
    assert found.output_told == any(name in reported for name in ("completion_tokens", "output_tokens"))


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
    ],
)
def test_garbage_is_no_usage_and_never_a_charge(reported: dict[str, Any]) -> None:
    assert usage_from(reported) is None


@pytest.mark.parametrize(
    ("reported", "usage", "output_told"),
    [
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(input=5), False),
        ({"prompt_tokens": 5, "completion_tokens": 2.5}, Usage(input=5), False),
        ({"prompt_tokens": 5, "completion_tokens": 7, "reasoning_tokens": -1}, Usage(input=5, output=7), True),
        ({"prompt_tokens": 5, "completion_tokens": 7, "cached_tokens": "x"}, Usage(input=5, output=7), True),
    ],
)
def test_one_odd_leaf_does_not_make_the_others_free(
    reported: dict[str, Any], usage: Usage, *, output_told: bool
) -> None:
    assert usage_from(reported) == Reported(usage, output_told=output_told)


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
    found = usage_from(reported)
    assert found is not None
    usage = found.usage
    parts = (usage.input, usage.cached_input, usage.cache_write, usage.audio_input, usage.output, usage.audio_output)
    assert min(parts) >= 0
    assert sum(parts[:4]) == reported["prompt_tokens"]
    assert sum(parts[4:]) == reported["completion_tokens"]


def test_a_reported_usage_is_charged_at_the_entrys_prices() -> None:
    charge = settle(ENTRY, PRICES, day="2026-09-21", settled_at_us=9)
    assert charge.amount_nano == 10 * 4_000 + 5 * 12_000
    assert charge.measured is Measured.REPORTED
    assert charge.id == "chg_01923f5e000070008000000000000001"


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_refusal_is_a_row_of_nothing(status: int) -> None:
    charge = settle(replace(ENTRY, status=status), PRICES, day="2026-09-21", settled_at_us=9)
    assert (charge.amount_nano, charge.usage, charge.measured) == (0, Usage(), Measured.NONE)


def test_a_caller_who_leaves_before_a_backend_was_tried_pays_nothing() -> None:
    entry = replace(ENTRY, status=0, attempts=0, reported=None)
    charge = settle(entry, replace(PRICES, request=5), day="2026-09-21", settled_at_us=9)
    assert (charge.amount_nano, charge.measured) == (0, Measured.NONE)


# what came back, and the tokens that are charged for it: 100 bytes went in, 40 came out, at 250 thousandths a byte
ESTIMATES: list[tuple[str, dict[str, Any], Usage, Measured]] = [
    (
        "a plain request cut after dispatch pays its input",
        {"status": 0, "answer_bytes": 0},
        Usage(input=25),
        Measured.ESTIMATED,
    ),
    ("a plain answer without usage", {}, Usage(input=25, output=10), Measured.ESTIMATED),
    ("a stream without usage", {"events": 7}, Usage(input=25, output=7), Measured.ESTIMATED),
    ("a stream cut before its first event", {"events": 0}, Usage(input=25), Measured.ESTIMATED),
    (
        "rates are the entry's",
        {"events": 7, "rates": Rates(1000, 0, 1500)},
        Usage(input=100, output=11),
        Measured.ESTIMATED,
    ),
    ("embeddings generate nothing", {"endpoint": "embeddings"}, Usage(input=25), Measured.ESTIMATED),
    ("the bytes of sound are no tokens", {"endpoint": "audio/speech"}, Usage(input=25), Measured.ESTIMATED),
    ("nor are those of an upload", {"endpoint": "audio/transcriptions"}, Usage(output=10), Measured.ESTIMATED),
    ("nothing is known of an unknown endpoint", {"endpoint": "elsewhere"}, Usage(), Measured.NONE),
    (
        "a stream that told its input, cut before it told its output",
        {"events": 7, "reported": Reported(Usage(input=11), output_told=False)},
        Usage(input=11, output=7),
        Measured.ESTIMATED,
    ),
    (
        "a plain answer that told its input only",
        {"reported": Reported(Usage(input=11), output_told=False)},
        Usage(input=11, output=10),
        Measured.ESTIMATED,
    ),
    (
        "embeddings tell no output, and there is none",
        {"endpoint": "embeddings", "reported": Reported(Usage(input=11), output_told=False)},
        Usage(input=11),
        Measured.REPORTED,
    ),
]


@pytest.mark.parametrize(
    ("changes", "usage", "measured"), [row[1:] for row in ESTIMATES], ids=[row[0] for row in ESTIMATES]
)
def test_what_no_usage_tells_is_estimated(changes: dict[str, Any], usage: Usage, measured: Measured) -> None:
    """User reports 22 and 23."""
    charge = settle(replace(ENTRY, **({"reported": None} | changes)), PRICES, day="2026-09-21", settled_at_us=9)
    assert (charge.usage, charge.measured) == (usage, measured)
    assert charge.amount_nano == usage.input * 4_000 + usage.output * 12_000


def test_an_estimate_never_exceeds_its_hold_and_a_report_may() -> None:
    estimated = settle(replace(ENTRY, reported=None, hold_nano=7), PRICES, day="2026-09-21", settled_at_us=9)
    assert (estimated.amount_nano, estimated.beyond_hold_nano) == (7, 0)
    reported = settle(replace(ENTRY, hold_nano=7), PRICES, day="2026-09-21", settled_at_us=9)
    assert reported.amount_nano == 10 * 4_000 + 5 * 12_000
    assert reported.beyond_hold_nano == reported.amount_nano - 7
    assert settle(replace(ENTRY, hold_nano=None), PRICES, day="2026-09-21", settled_at_us=9).beyond_hold_nano == 0


def test_the_price_of_a_request_is_charged_whenever_a_backend_worked_on_it() -> None:
    prices = replace(PRICES, request=1_000, input=0, output=0)
    for changes in (
        {},
        {"reported": None},
        {"reported": None, "status": 0},
        {"endpoint": "audio/speech", "reported": None},
    ):
        assert settle(replace(ENTRY, **changes), prices, day="2026-09-21", settled_at_us=9).amount_nano == 1_000, (
            changes
        )
    assert settle(replace(ENTRY, status=500), prices, day="2026-09-21", settled_at_us=9).amount_nano == 0


def test_a_decision_that_was_given_up_is_a_row_of_nothing_and_a_late_entry_its_correction() -> None:
    given_up, charge = (
        unsettled(ENTRY, PRICES, day="2026-09-21", settled_at_us=9),
        settle(ENTRY, PRICES, day="2026-09-21", settled_at_us=10),
    )
    assert (given_up.kind, given_up.amount_nano) == (Kind.UNSETTLED, 0)
    corrected: Charge = correction(charge)
    assert (corrected.kind, corrected.amount_nano) == (Kind.CORRECTION, charge.amount_nano)
    assert len({given_up.id, charge.id, corrected.id}) == 3


def test_the_price_of_a_request_comes_on_top() -> None:
    charge = settle(ENTRY, replace(PRICES, request=1_000), day="2026-09-21", settled_at_us=9)
    assert charge.amount_nano == 10 * 4_000 + 5 * 12_000 + 1_000


@pytest.mark.parametrize(
    "change",
    [
        {"status": 201},
        {"attempts": 2},
        {"reported": Reported(Usage(input=11), output_told=True)},
        {"reported": None},
        {"key_id": "key_2"},
    ],
)
def test_another_entry_under_the_same_id_is_told_apart_by_its_facts(change: dict[str, Any]) -> None:
    assert replace(ENTRY, **change).fingerprint != ENTRY.fingerprint
    assert replace(ENTRY).fingerprint == ENTRY.fingerprint


def test_every_fact_of_an_entry_is_in_its_fingerprint() -> None:
    other: dict[str, Any] = {
        "decision_id": UUID(int=1),
        "reported": Reported(Usage(input=10, output=5), output_told=False),
        "rates": Rates(251, 250, 1000),
        "events": 1,
    }
    for name in (f.name for f in fields(Entry)):
        value = getattr(ENTRY, name)
        changed = other.get(name, value + 1 if isinstance(value, int) else f"{value}x")
        assert replace(ENTRY, **{name: changed}).fingerprint != ENTRY.fingerprint, name
