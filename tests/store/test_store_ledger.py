"""Conformance of every store: charges, totals, prices and positions."""

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import fields, replace

import pytest
from changes import keep_key, make_event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.builders import NOW_US, PRICES, USAGE, altered, make_charge, make_entry, make_key, make_unsettled, unique

from keytoll.core.ledger import Charge, Entry, Kind, Measured, Reported, correction, settle
from keytoll.core.money import MAX_TOTAL_NANO
from keytoll.core.pricing import Prices, Usage
from keytoll.core.quota import Totals
from keytoll.core.rates import Rates
from keytoll.store.base import Batch, ChargeQuery, Position, Posted, PriceRecord, Rejected, Store, StoreUnavailable


async def _totals(store: Store, key_id: str) -> Totals:
    found = await store.key_by_id(key_id)
    assert found is not None
    return found.totals


async def _ids(store: Store, query: ChargeQuery) -> list[str]:
    return [charge.id for charge in await store.list_charges(query)]


# --- posting ---


async def test_an_empty_batch_posts_nothing(store: Store) -> None:
    assert await store.post(Batch()) == Posted(0)
    assert await store.list_charges(ChargeQuery()) == []


async def test_new_charges_are_posted_with_the_absolute_totals_of_their_keys(store: Store) -> None:
    key, other = make_key(), make_key()
    await keep_key(store, key)
    await keep_key(store, other)
    august = make_charge(5, key_id=key.id, month="2026-08")
    september = make_charge(7, key_id=key.id), make_charge(11, key_id=key.id), make_charge(13, key_id=other.id)

    first = await store.post(Batch([august]))
    second = await store.post(Batch(september))

    assert first == Posted(first.revision, (august,), totals={key.id: Totals(5, {"2026-08": 5})})
    totals = {key.id: Totals(23, {"2026-09": 18}), other.id: Totals(13, {"2026-09": 13})}
    assert second == Posted(second.revision, september, totals=totals)
    assert second.revision > first.revision
    stored = await store.key_by_id(key.id)
    assert stored is not None
    assert stored.totals == Totals(23, {"2026-08": 5, "2026-09": 18})
    assert stored.revision == second.revision
    assert await store.owner_totals(key.owner) == {"2026-08": 5, "2026-09": 31}


async def test_the_owner_of_the_entry_pays_whoever_owns_the_key(store: Store) -> None:
    key = make_key(owner="users/alice")
    await keep_key(store, key)
    await store.post(Batch([make_charge(5, key_id=key.id, owner="organizations/acme")]))
    assert await store.owner_totals("organizations/acme") == {"2026-09": 5}
    assert await store.owner_totals("users/alice") == {}


async def test_a_repeated_entry_has_no_effect_also_when_settled_later_at_another_amount(store: Store) -> None:
    charge = make_charge(5)
    first = await store.post(Batch([charge]))
    again = replace(charge, amount_nano=6, settled_at_us=charge.settled_at_us + 1)
    second = await store.post(Batch([again], positions=[Position("a", 1)]))
    assert second == Posted(first.revision, repeated=1)
    assert await store.list_charges(ChargeQuery()) == [charge]
    assert await store.owner_totals("users/alice") == {"2026-09": 5}
    assert await store.positions() == {"a": 1}


async def test_repeats_within_a_batch_are_charged_once(store: Store) -> None:
    charge = make_charge(5)
    posted = await store.post(Batch([charge, replace(charge, settled_at_us=1), charge]))
    assert (posted.charges, posted.repeated, posted.conflicts) == ((charge,), 2, ())
    assert await store.owner_totals("users/alice") == {"2026-09": 5}


async def test_another_entry_under_a_decision_is_kept_out(store: Store) -> None:
    charge = make_charge(5)
    await store.post(Batch([charge]))
    conflict = altered(charge)
    posted = await store.post(Batch([conflict, new := make_charge(7)]))
    assert (posted.charges, posted.repeated, posted.conflicts) == ((new,), 0, (conflict,))
    assert set(await _ids(store, ChargeQuery())) == {charge.id, new.id}
    assert await store.owner_totals("users/alice") == {"2026-09": 12}


async def test_of_two_entries_under_one_decision_in_a_batch_the_first_counts(store: Store) -> None:
    charge = make_charge(5)
    posted = await store.post(Batch([charge, altered(charge), charge]))
    assert (posted.charges, posted.repeated, posted.conflicts) == ((charge,), 1, (altered(charge),))
    assert await store.owner_totals("users/alice") == {"2026-09": 5}


async def test_a_deleted_key_is_charged_as_usual(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    await store.delete_key(key.id, deleted_at_us=NOW_US, event=make_event())
    charge = make_charge(5, key_id=key.id)
    posted = await store.post(Batch([charge]))
    assert posted.totals == {key.id: Totals(5, {"2026-09": 5})}
    assert await store.list_charges(ChargeQuery(key_id=key.id)) == [charge]


async def test_a_key_that_the_store_never_knew_is_charged_as_usual(store: Store) -> None:
    posted = await store.post(Batch([make_charge(5, key_id="key_of_a_lost_backup")]))
    assert posted.totals == {"key_of_a_lost_backup": Totals(5, {"2026-09": 5})}


async def test_a_total_reaches_64_bits_exactly(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    await store.post(Batch([make_charge(MAX_TOTAL_NANO - 1, key_id=key.id)]))
    await store.post(Batch([make_charge(1, key_id=key.id)]))
    assert await _totals(store, key.id) == Totals(MAX_TOTAL_NANO, {"2026-09": MAX_TOTAL_NANO})


@pytest.mark.parametrize("months", [("2026-09", "2026-09"), ("2026-08", "2026-09")])
async def test_a_total_beyond_64_bits_posts_nothing_of_its_batch(store: Store, months: tuple[str, str]) -> None:
    key = make_key()
    await keep_key(store, key)
    before = await store.post(Batch([make_charge(MAX_TOTAL_NANO, key_id=key.id, month=months[0])]))
    batch = [make_charge(5, key_id="key_other", owner="users/bob"), make_charge(1, key_id=key.id, month=months[1])]
    with pytest.raises(OverflowError):
        await store.post(Batch(batch, [Rejected("r", "t", 1)], [Position("journal", 1)]))
    stored = await store.key_by_id(key.id)
    assert stored is not None
    assert (stored.totals.lifetime_nano, stored.revision) == (MAX_TOTAL_NANO, before.revision)
    assert len(await store.list_charges(ChargeQuery())) == 1
    assert await store.owner_totals("users/bob") == await store.positions() == {}


async def test_a_charge_whose_own_amount_is_beyond_64_bits_posts_nothing(store: Store) -> None:
    with pytest.raises(OverflowError):
        await store.post(Batch([make_charge(MAX_TOTAL_NANO + 1)]))
    assert await store.post(Batch()) == Posted(0)


async def test_a_rejected_entry_that_is_not_unicode_does_not_hold_up_its_batch(store: Store) -> None:
    charge = make_charge()
    posted = await store.post(Batch([charge], [Rejected("malformed", "\udcff\ud800 \x00", NOW_US)]))
    assert posted.charges == (charge,)


async def test_concurrent_posts_of_overlapping_batches_charge_everything_once(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    charges = [make_charge(1, key_id=key.id) for _ in range(60)]
    posted = await asyncio.gather(*(store.post(Batch(charges[n : n + 20])) for n in range(0, 41, 2)))
    assert Counter(charge.id for result in posted for charge in result.charges) == Counter(c.id for c in charges)
    assert await _totals(store, key.id) == Totals(60, {"2026-09": 60})


async def test_a_read_key_its_totals_and_its_revision_are_of_one_instant(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    spent_by_revision = {0: 0}
    reads: list[tuple[int, int]] = []

    async def post() -> None:
        for _ in range(100):
            posted = await store.post(Batch([make_charge(1, key_id=key.id), make_charge(1, key_id=key.id)]))
            spent_by_revision[posted.revision] = posted.totals[key.id].lifetime_nano

    async def read(until: asyncio.Task[None]) -> None:
        while not until.done():
            stored = await store.key_by_digest(key.digest)
            assert stored is not None
            assert stored.totals.lifetime_nano == stored.totals.by_month.get("2026-09", 0)
            reads.append((stored.revision, stored.totals.lifetime_nano))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read(tasks.create_task(post())))
    assert all(spent_by_revision[revision] == spent for revision, spent in reads)
    assert reads == sorted(reads)


@st.composite
def _postings(draw: st.DrawFn) -> list[list[Charge]]:
    """Random charges over a few keys, owners and months, in batches with repeats in any order."""
    fresh = unique("-")
    charges = [
        make_charge(amount, key_id=f"key{fresh}-{key}", owner=f"users/{owner}{fresh}", month=f"2026-{month:02d}")
        for amount, key, owner, month in draw(
            st.lists(
                st.tuples(st.integers(0, 2**55), st.integers(0, 2), st.integers(0, 1), st.integers(1, 3)),
                min_size=1,
                max_size=12,
            )
        )
    ]
    order = draw(
        st.lists(st.integers(0, len(charges) - 1), max_size=30).map(lambda more: [*range(len(charges)), *more])
    )
    order = draw(st.permutations(order))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=6)))
    edges = itertools.pairwise([0, *cuts, len(order)])
    return [[charges[n] for n in order[start:end]] for start, end in edges]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=_postings())
async def test_totals_are_the_sum_of_each_charge_once_whatever_is_repeated_and_in_what_order(
    store: Store, batches: list[list[Charge]]
) -> None:
    posted = [await store.post(Batch(batch)) for batch in batches]

    charges = {charge.id: charge for batch in batches for charge in batch}
    of_keys, of_months, of_owners = Counter[str](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for charge in charges.values():
        entry = charge.entry
        of_keys[entry.key_id] += charge.amount_nano
        of_months[entry.key_id, entry.month] += charge.amount_nano
        of_owners[entry.owner, entry.month] += charge.amount_nano

    assert Counter(charge.id for result in posted for charge in result.charges) == Counter(list(charges))
    assert sum(result.repeated for result in posted) == sum(map(len, batches)) - len(charges)
    last = {key_id: totals.lifetime_nano for result in posted for key_id, totals in result.totals.items()}
    assert last == of_keys
    last_months = {
        (key_id, month): nano
        for result in posted
        for key_id, totals in result.totals.items()
        for month, nano in totals.by_month.items()
    }
    assert last_months == of_months
    for owner in {owner for owner, _ in of_owners}:
        expected = {month: nano for (name, month), nano in of_owners.items() if name == owner}
        assert await store.owner_totals(owner) == expected


# --- decisions that were given up ---


async def test_a_decision_given_up_has_a_row_that_costs_nothing_and_is_no_charge(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    gave_up = make_unsettled(make_charge(5, key_id=key.id))
    posted = await store.post(Batch(unsettled=[gave_up], positions=[Position("a", 1)]))
    assert posted == Posted(posted.revision, unsettled=(gave_up,))
    assert await store.charge(gave_up.id) == gave_up
    assert await store.list_charges(ChargeQuery()) == []
    assert await _totals(store, key.id) == Totals()
    assert await store.owner_totals(key.owner) == {}
    assert await store.positions() == {"a": 1}
    assert await store.count_unsettled() == 1


async def test_an_entry_that_comes_after_its_decision_was_given_up_is_charged_as_a_correction(store: Store) -> None:
    charge = make_charge(5)
    gave_up = make_unsettled(charge)
    before = await store.post(Batch(unsettled=[gave_up]))
    posted = await store.post(Batch([charge]))
    corrected = correction(charge)
    totals = {charge.entry.key_id: Totals(5, {"2026-09": 5})}
    assert posted == Posted(posted.revision, (corrected,), totals=totals)
    assert posted.revision > before.revision
    assert await store.list_charges(ChargeQuery()) == [corrected]
    assert await store.charge(corrected.id) == corrected
    assert await store.charge(gave_up.id) == gave_up
    assert await store.charge(charge.id) is None
    assert await store.owner_totals("users/alice") == {"2026-09": 5}
    assert await store.count_unsettled() == 0


async def test_after_a_correction_the_same_entry_has_no_effect_and_another_one_is_kept_out(store: Store) -> None:
    charge = make_charge(5)
    await store.post(Batch(unsettled=[make_unsettled(charge)]))
    first = await store.post(Batch([charge, charge, altered(charge)]))
    assert (first.charges, first.repeated, first.conflicts) == ((correction(charge),), 1, (altered(charge),))
    second = await store.post(Batch([charge, altered(charge), *first.charges], unsettled=[make_unsettled(charge)]))
    assert second == Posted(first.revision, repeated=2, conflicts=(altered(charge),))
    assert await store.owner_totals("users/alice") == {"2026-09": 5}


async def test_a_decision_that_has_a_row_is_not_given_up(store: Store) -> None:
    charged, gave_up = make_charge(5), make_unsettled(make_charge())
    first = await store.post(Batch([charged], unsettled=[gave_up, gave_up]))
    assert first.unsettled == (gave_up,)
    again = await store.post(Batch(unsettled=[make_unsettled(charged), gave_up]))
    assert again == Posted(first.revision)
    assert await store.count_unsettled() == 1


async def test_a_charge_wins_over_giving_up_its_decision_in_the_same_batch(store: Store) -> None:
    charge = make_charge(5)
    posted = await store.post(Batch([charge], unsettled=[make_unsettled(charge)]))
    assert (posted.charges, posted.unsettled) == ((charge,), ())
    assert await store.charge(charge.id) == charge
    assert await store.count_unsettled() == 0


async def test_giving_up_and_charging_one_decision_at_once_charges_it_once(store: Store) -> None:
    """As when the entry comes at the very moment that its decision is given up."""
    charges = [make_charge(1) for _ in range(30)]
    batches = [batch for c in charges for batch in (Batch(unsettled=[make_unsettled(c)]), Batch([c]), Batch([c]))]
    random.Random(1).shuffle(batches)
    posted = await asyncio.gather(*map(store.post, batches))
    assert sum(len(result.charges) for result in posted) == sum(result.repeated for result in posted) == 30
    assert await store.owner_totals("users/alice") == {"2026-09": 30}
    assert await store.count_unsettled() == 0
    listed = await store.list_charges(ChargeQuery())
    given_up = {row.entry.decision_id for result in posted for row in result.unsettled}
    corrected = {charge.entry.decision_id for charge in listed if charge.kind is Kind.CORRECTION}
    assert corrected == given_up != set()
    assert len(listed) == 30


async def test_a_batch_beyond_64_bits_gives_up_nothing(store: Store) -> None:
    gave_up = make_unsettled(make_charge())
    with pytest.raises(OverflowError):
        await store.post(Batch([make_charge(MAX_TOTAL_NANO + 1)], unsettled=[gave_up]))
    assert (await store.charge(gave_up.id), await store.count_unsettled()) == (None, 0)


async def test_rows_of_the_wrong_kind_are_refused() -> None:
    charge = make_charge()
    with pytest.raises(ValueError, match="no charge"):
        Batch([make_unsettled(charge)])
    with pytest.raises(ValueError, match="of that kind"):
        Batch(unsettled=[charge])
    with pytest.raises(ValueError, match="amount 0"):
        Batch(unsettled=[replace(make_unsettled(charge), amount_nano=1)])


async def test_unsettled_rows_are_listed_newest_admission_first_the_open_ones_or_all(store: Store) -> None:
    charges = [make_charge(admitted_at_us=NOW_US + n) for n in (3, 1, 4, 0, 2)]
    await store.post(Batch([make_charge()], unsettled=[make_unsettled(charge) for charge in charges]))
    await store.post(Batch([charges[2], charges[3]]))
    every = sorted(map(make_unsettled, charges), key=lambda row: -row.entry.admitted_at_us)
    assert await store.list_unsettled(after=None, limit=9, settled_later=True) == every
    assert await store.list_unsettled(after=None, limit=9, settled_later=False) == every[1:4]
    assert await store.list_unsettled(after=None, limit=0, settled_later=True) == []
    assert await store.list_unsettled(after="uns_unknown", limit=9, settled_later=True) == []
    assert await store.count_unsettled() == 3


@pytest.mark.parametrize("settled_later", [True, False])
async def test_pages_hold_every_unsettled_row_once_also_when_their_last_is_corrected(
    store: Store, settled_later: bool
) -> None:
    charges = [make_charge(admitted_at_us=NOW_US + n // 3) for n in range(8)]
    by_decision = {charge.entry.decision_id: charge for charge in charges}
    await store.post(Batch(unsettled=[make_unsettled(charge) for charge in charges]))
    everything = await store.list_unsettled(after=None, limit=100, settled_later=settled_later)
    pages: list[Charge] = []
    after = None
    while page := await store.list_unsettled(after=after, limit=3, settled_later=settled_later):
        pages += page
        after = page[-1].id
        await store.post(Batch([by_decision[page[-1].entry.decision_id]]))
    assert pages == everything
    assert len(pages) == 8


async def test_decisions_with_a_row_of_any_kind_are_told_from_those_without(store: Store) -> None:
    charged, gave_up, corrected, unknown = (make_charge() for _ in range(4))
    await store.post(Batch([charged], unsettled=[make_unsettled(gave_up), make_unsettled(corrected)]))
    await store.post(Batch([corrected]))
    asked = [charge.entry.decision_id for charge in (charged, gave_up, corrected, unknown)]
    assert await store.settled(asked * 700) == set(asked[:3])
    assert await store.settled([]) == set()


# --- reading ---


@pytest.mark.parametrize("status", [200, 0, 429, 502])
@pytest.mark.parametrize("usage", [USAGE, Usage(), None])
@pytest.mark.parametrize("output_told", [True, False])
@pytest.mark.parametrize("events", [None, 0, 7])
async def test_a_charge_reads_back_exactly_as_it_was_posted(
    store: Store, status: int, usage: Usage | None, output_told: bool, events: int | None
) -> None:
    entry = make_entry(status=status, usage=usage, output_told=output_told)
    entry = replace(entry, events=events, request_bytes=1001, answer_bytes=2002)
    charge = settle(entry, PRICES, day="2026-09-21", settled_at_us=NOW_US + 1)
    await store.post(Batch([charge]))
    (found,) = await store.list_charges(ChargeQuery())
    assert found == charge == await store.charge(charge.id)
    assert found.entry.fingerprint == charge.entry.fingerprint


_COUNTS = st.integers(0, 2**63 - 1)
_USAGES = st.builds(Usage, *[_COUNTS] * len(fields(Usage)))
_ENTRIES = st.builds(
    replace,
    st.builds(make_entry),
    endpoint=st.text(st.characters(codec="utf-8", exclude_characters="\0")),  # which no log entry holds
    status=_COUNTS,
    attempts=_COUNTS,
    reported=st.none() | st.builds(Reported, _USAGES, output_told=st.booleans()),
    request_bytes=_COUNTS,
    answer_bytes=_COUNTS,
    events=st.none() | _COUNTS,
    hold_nano=st.none() | _COUNTS,
    rates=st.builds(Rates, _COUNTS, _COUNTS, _COUNTS),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entry=_ENTRIES, usage=_USAGES, charged_as_reported=st.booleans(), measured=st.sampled_from(Measured))
async def test_every_fact_of_a_row_reads_back_exactly(
    store: Store, entry: Entry, usage: Usage, charged_as_reported: bool, measured: Measured
) -> None:
    if charged_as_reported and entry.reported is not None:
        usage = entry.reported.usage
    entry = replace(entry, key_id=unique("key_"))  # whose usage is then that of one charge
    charge = replace(make_charge(7), id=unique("chg_"), entry=entry, usage=usage, measured=measured)
    await store.post(Batch([charge]))
    assert await store.charge(charge.id) == charge


async def test_a_row_that_is_unknown_is_none(store: Store) -> None:
    assert await store.charge("chg_unknown") is None


async def test_charges_are_listed_by_admission_newest_first_whatever_the_order_of_posting(store: Store) -> None:
    charges = [make_charge(admitted_at_us=NOW_US + n) for n in (3, 1, 4, 0, 2)]
    await store.post(Batch(charges[:3]))
    await store.post(Batch(charges[3:]))
    listed = await store.list_charges(ChargeQuery())
    assert [charge.entry.admitted_at_us - NOW_US for charge in listed] == [4, 3, 2, 1, 0]


async def test_charges_are_listed_by_owner_key_and_time(store: Store) -> None:
    a = make_charge(key_id="key_1", owner="users/alice", admitted_at_us=NOW_US)
    b = make_charge(key_id="key_2", owner="users/alice", admitted_at_us=NOW_US + 1)
    c = make_charge(key_id="key_3", owner="users/bob", admitted_at_us=NOW_US + 2)
    await store.post(Batch([a, b, c]))
    assert await _ids(store, ChargeQuery()) == [c.id, b.id, a.id]
    assert await _ids(store, ChargeQuery(owner="users/alice")) == [b.id, a.id]
    assert await _ids(store, ChargeQuery(key_id="key_3")) == [c.id]
    assert await _ids(store, ChargeQuery(owner="users/bob", key_id="key_1")) == []
    assert await _ids(store, ChargeQuery(since_us=NOW_US + 1)) == [c.id, b.id]
    assert await _ids(store, ChargeQuery(owner="users/alice", since_us=NOW_US + 1, limit=5)) == [b.id]


@pytest.mark.parametrize("query", [ChargeQuery(), ChargeQuery(owner="users/alice"), ChargeQuery(key_id="key_x")])
async def test_pages_hold_every_charge_once_also_of_one_instant(store: Store, query: ChargeQuery) -> None:
    charges = [make_charge(admitted_at_us=NOW_US + n // 4) for n in range(11)]
    await store.post(Batch([*charges, make_charge(key_id="key_other", owner="users/other")]))
    everything = await _ids(store, query)
    pages: list[str] = []
    while page := await _ids(store, replace(query, after=pages[-1] if pages else None, limit=3)):
        pages += page
    assert pages == everything
    assert set(pages) >= {charge.id for charge in charges}


async def test_nothing_follows_a_charge_that_is_unknown(store: Store) -> None:
    await store.post(Batch([make_charge()]))
    assert await _ids(store, ChargeQuery(after="chg_unknown")) == []


# --- prices and positions ---


async def test_prices_read_back_exactly_and_a_version_stays_as_it_is(store: Store) -> None:
    distinct = Prices(**{field.name: number for number, field in enumerate(fields(Prices), start=1)})
    await store.note_prices([("m", 0, PRICES), ("m", 1, distinct)], NOW_US)
    await store.note_prices([("other", 0, distinct), ("other", 1, distinct)], NOW_US)
    assert await store.prices(PRICES.id) == PRICES
    assert await store.prices(distinct.id) == distinct
    assert await store.prices("price_unknown") is None


async def test_prices_are_noted_by_model_and_instant_and_kept_as_versions(store: Store) -> None:
    dearer = replace(PRICES, request=PRICES.request + 1)
    await store.note_prices([("m", 0, PRICES), ("m", NOW_US, dearer), ("other", 5, dearer)], NOW_US)
    assert await store.price_history("m") == [(0, PRICES.id, NOW_US), (NOW_US, dearer.id, NOW_US)]
    assert await store.price_history("other") == [PriceRecord(from_us=5, price_id=dearer.id, noted_at_us=NOW_US)]
    assert await store.price_history("unknown") == []
    assert (await store.prices(PRICES.id), await store.prices(dearer.id)) == (PRICES, dearer)


async def test_prices_are_noted_again_only_where_they_differ_from_what_was_noted_last(store: Store) -> None:
    dearer = replace(PRICES, request=PRICES.request + 1)
    for at_us, prices in enumerate([PRICES, PRICES, dearer, dearer, PRICES], start=1):
        await store.note_prices([("m", 7, prices), ("m", 7, prices), ("m", 3, PRICES)], at_us)
    assert await store.price_history("m") == [
        (3, PRICES.id, 1),
        (7, PRICES.id, 1),
        (7, dearer.id, 3),
        (7, PRICES.id, 5),
    ]


async def test_a_position_is_the_last_that_was_posted_also_a_smaller_one(store: Store) -> None:
    """A truncated journal file is read from its start again."""
    await store.post(Batch(positions=[Position("a", 10), Position("b", 2**40), Position("a", 11)]))
    assert await store.positions() == {"a": 11, "b": 2**40}
    await store.post(Batch(positions=[Position("a", 3)]))
    assert await store.positions() == {"a": 3, "b": 2**40}


async def test_forgotten_positions_are_gone_and_others_stay(store: Store) -> None:
    await store.post(Batch(positions=[Position(name, 1) for name in ("a", "b", "ü'\"")]))
    await store.forget_positions(["a", "ü'\"", "unknown"])
    await store.forget_positions([])
    assert await store.positions() == {"b": 1}


# --- the store itself ---


async def test_a_store_answers_until_it_is_closed(store: Store) -> None:
    await store.positions()
    await store.close()
    for call in (store.positions(), store.key_by_id("key_x"), store.post(Batch()), keep_key(store, make_key())):
        with pytest.raises(StoreUnavailable):
            await call


async def test_closing_finishes_what_is_running_and_can_be_repeated(store: Store) -> None:
    posting = [asyncio.create_task(store.post(Batch([make_charge()]))) for _ in range(5)]
    await asyncio.sleep(0)  # each has called, none is done
    await asyncio.gather(store.close(), store.close())
    assert [len((await posted).charges) for posted in posting] == [1] * 5


async def test_a_cancelled_caller_leaves_its_batch_whole_and_the_store_working(store: Store) -> None:
    """Wherever the cancellation strikes: the batch is there in full afterwards, and the next transactions run."""
    key = make_key()
    await keep_key(store, key)
    for turns in range(12):
        charges = [make_charge(1, key_id=key.id) for _ in range(10)]
        caller = asyncio.create_task(store.post(Batch(charges, positions=[Position("journal", turns)])))
        await asyncio.sleep(0)  # it has called
        for _ in range(turns):
            await store.positions()
        caller.cancel()
        await asyncio.wait([caller])
        again = await store.post(Batch(charges))
        assert (again.charges, again.repeated) == ((), 10)
        assert (await store.positions())["journal"] == turns
        assert (await _totals(store, key.id)).lifetime_nano == 10 * (turns + 1)


async def test_the_currency_of_a_ledger_never_changes(store: Store) -> None:
    assert await store.keep_currency("CNY") == "CNY"
    assert await store.keep_currency("USD") == "CNY"
