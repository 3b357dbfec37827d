"""The worst case and the bound that rests on it."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.endpoints import ENDPOINTS, Inputs
from keytoll.core.holds import NOTHING_HELD, Held, KeyHolds, fits
from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.pricing import Prices, Usage, cost_nano
from keytoll.core.quota import Quota, QuotaKind, Totals
from keytoll.core.worst_case import MAX_HOLD_NANO, worst_case_nano

FREE = Prices(input=0, output=0, cached_input=0, cache_write=0, audio_input=0, audio_output=0)
OFFER = Offer(
    model="m",
    pool="model/m",
    prices=(PriceVersion(0, FREE, "p"),),
    retries=0,
    upstream_model="m",
    running_usage=False,
    context_length=1_000,
    maximum_output=200,
    template_tokens=10,
)
A_TOKEN = replace(FREE, input=1_000_000, output=1_000_000)  # a nano-unit for each token


def worst(path: str, *, offer: Offer = OFFER, body: int = 90, limit: int | None = None, answers: int = 1) -> int | None:
    return worst_case_nano(
        endpoint=ENDPOINTS[path], offer=offer, prices=A_TOKEN, body_bytes=body, output_limit=limit, answers=answers
    )


def test_one_context_caps_its_input_and_a_limit_its_output() -> None:
    chat = "/v1/chat/completions"
    assert worst(chat) == 90 + 10 + 200
    assert worst(chat, body=10**9) == 1_000 + 200
    assert worst(chat, limit=5) == 90 + 10 + 5
    assert worst(chat, limit=10**18) == 90 + 10 + 1_000  # nothing generates more than its context
    assert worst(chat, limit=0) == 90 + 10 + 200
    assert worst(chat, limit=5, answers=4) == 90 + 10 + 20
    assert worst(chat, offer=replace(OFFER, reasoning_beyond=50), limit=5, answers=2) == 90 + 10 + 110
    assert worst(chat, offer=replace(OFFER, takes_media=True), limit=5) == 1_000 + 5


def test_many_inputs_are_not_capped_by_one_context() -> None:
    assert worst("/v1/embeddings", body=9_000) == 9_000 + 3_001 * 10
    assert worst("/v1/embeddings", body=9_000, offer=replace(OFFER, takes_media=True)) == 9_000 + 3_001 * 1_000


def test_a_reranker_reads_its_query_with_each_document() -> None:
    assert worst("/v1/rerank", body=600) == 600 + 30_000 + 201 * 10


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/audio/transcriptions"])
def test_what_can_not_be_bounded_is_not(path: str) -> None:
    assert worst(path) is None


def test_absurd_values_stay_within_64_bits() -> None:
    dear = replace(FREE, input=9 * 10**18, output=9 * 10**18)
    absurd = worst_case_nano(
        endpoint=ENDPOINTS["/v1/chat/completions"],
        offer=replace(OFFER, context_length=10**9),
        prices=dear,
        body_bytes=2**40,
        output_limit=10**300,
        answers=10**300,
    )
    assert absurd == MAX_HOLD_NANO


prices = st.builds(Prices, **dict.fromkeys(Prices.__dataclass_fields__, st.integers(0, 10**12)))
parts = st.integers(0, 1_000)


@given(prices, st.lists(parts, min_size=4, max_size=4), st.lists(parts, min_size=2, max_size=2), st.integers(0, 5_000))
def test_no_usage_within_the_tokens_costs_more_than_the_worst_case(
    price: Prices, inputs: list[int], outputs: list[int], limit: int
) -> None:
    """Whatever the classes of the tokens: the bound would not hold otherwise."""
    body = sum(inputs)
    held = worst_case_nano(
        endpoint=ENDPOINTS["/v1/chat/completions"],
        offer=replace(OFFER, context_length=10_000, template_tokens=0),
        prices=price,
        body_bytes=body,
        output_limit=sum(outputs) + limit,
        answers=1,
    )
    usage = Usage(
        input=inputs[0],
        cached_input=inputs[1],
        cache_write=inputs[2],
        audio_input=inputs[3],
        output=outputs[0],
        audio_output=outputs[1],
    )
    assert held is not None
    if sum(outputs) + limit:
        assert cost_nano(usage, price) <= held


@given(st.lists(st.text(max_size=12), max_size=6), st.text(max_size=20))
def test_pairs_and_many_bound_what_a_backend_could_read(documents: list[str], query: str) -> None:
    body = len(
        json.dumps({"query": query, "documents": documents}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
    read = sum(
        len(query.encode("utf-8", "surrogatepass")) + len(d.encode("utf-8", "surrogatepass")) + 10 for d in documents
    )
    held = worst("/v1/rerank", body=body)
    assert held is not None
    assert read <= held
    many = worst("/v1/embeddings", body=body)
    assert many is not None
    assert sum(len(d.encode("utf-8", "surrogatepass")) + 10 for d in documents) <= many


TOTAL, MONTHLY = Quota(QuotaKind.TOTAL, 100), Quota(QuotaKind.MONTHLY, 100)


def holding(*amounts: int | None, month: str = "2026-11") -> KeyHolds:
    holds = KeyHolds()
    for amount in amounts:
        holds = holds.plus(month, amount)
    return holds


@pytest.mark.parametrize(
    ("quota", "spent", "holds", "worst_nano", "expected"),
    [
        (Quota(), 10**9, holding(None, 10**9), None, True),
        (TOTAL, 0, KeyHolds(), 100, True),
        (TOTAL, 0, holding(50), 50, True),
        (TOTAL, 0, holding(50), 51, False),
        (TOTAL, 40, holding(50), 10, True),
        (TOTAL, 41, holding(50), 10, False),
        (TOTAL, 99, KeyHolds(), 10**9, True),  # the at-least-one rule
        (TOTAL, 0, holding(1), None, False),  # what can't be bounded runs alone
        (TOTAL, 0, KeyHolds(), None, True),
        (TOTAL, 0, holding(None), 1, False),
        (MONTHLY, 0, holding(100, month="2026-10"), 100, True),  # another month's holds don't count
        (MONTHLY, 0, holding(100), 1, False),
        (TOTAL, 0, holding(100, month="2026-10"), 1, False),
        (Quota(QuotaKind.MONTHLY, 0), 0, holding(), 1, True),  # it is spent: refused before
    ],
)
def test_what_fits(quota: Quota, spent: int, holds: KeyHolds, worst_nano: int | None, expected: bool) -> None:
    totals = Totals(spent, {"2026-11": spent})
    assert fits(quota=quota, totals=totals, holds=holds, month="2026-11", worst_nano=worst_nano) is expected


amounts = st.none() | st.integers(0, 100)


@given(st.lists(st.tuples(st.sampled_from(["2026-10", "2026-11"]), amounts), max_size=8), st.randoms())
def test_holds_add_up_and_leave_nothing_behind(pairs: list[tuple[str, int | None]], rng: object) -> None:
    holds = KeyHolds()
    for month, amount in pairs:
        holds = holds.plus(month, amount)
    bounded = [amount for _, amount in pairs if amount is not None]
    assert holds.in_all == Held(len(pairs), sum(bounded), len(pairs) - len(bounded))
    november = [amount for month, amount in pairs if month == "2026-11"]
    assert holds.counting(MONTHLY, "2026-11").count == len(november)
    rng.shuffle(pairs)  # type: ignore[attr-defined]
    for month, amount in pairs:
        holds = holds.minus(month, amount)
    assert holds == KeyHolds()
    assert holds.counting(MONTHLY, "2026-11") == NOTHING_HELD


@given(
    st.integers(1, 1_000),
    st.lists(st.tuples(amounts, st.fractions(0, 1), st.booleans()), max_size=40),
)
def test_final_spend_is_at_most_the_limit_plus_one_request(
    limit: int, requests: list[tuple[int | None, Fraction, bool]]
) -> None:
    """Requests come, run side by side, and end at any share of their worst case (100 where it is unbounded)."""
    quota, spent, holds = Quota(QuotaKind.TOTAL, limit), 0, KeyHolds()
    running: list[tuple[int | None, int]] = []
    for worst_nano, share, end_one in requests:
        totals = Totals(spent)
        if spent < limit and fits(quota=quota, totals=totals, holds=holds, month="m", worst_nano=worst_nano):
            holds = holds.plus("m", worst_nano)
            running.append((worst_nano, int((100 if worst_nano is None else worst_nano) * share)))
        if end_one and running:
            ended, amount = running.pop(0)
            spent, holds = spent + amount, holds.minus("m", ended)
    spent += sum(amount for _, amount in running)
    assert spent <= limit + 100


def test_the_table_of_endpoints_says_of_each_how_it_is_bounded() -> None:
    assert {path for path, endpoint in ENDPOINTS.items() if endpoint.inputs is Inputs.UNBOUNDED} == {
        "/v1/completions",
        "/v1/audio/transcriptions",
    }
