"""The archive: old rows leave the ledger, and nothing else changes."""

from dataclasses import replace

from changes import make_event
from store.builders import NOW_US, make_charge, make_unsettled

from keytoll.core.audit import Action
from keytoll.core.ledger import Charge, correction_id
from keytoll.core.usage import Group
from keytoll.store.base import AuditQuery, Batch, ChargeQuery, Store, UsageQuery

LATER_US = NOW_US + 86_400_000_000


async def archived(store: Store) -> int:
    """Archive what was admitted before LATER_US, and return how many rows that were."""
    rows = 0
    while some := await store.archive_charges(
        before_us=LATER_US, name="2026-09-22", event=None if rows else make_event(Action.CHARGES_ARCHIVE)
    ):
        rows += some
    return rows


async def posted(store: Store, number: int = 3) -> list[Charge]:
    """Post old charges, and a newer one."""
    old = [make_charge() for _ in range(number)]
    await store.post(Batch([*old, make_charge(admitted_at_us=LATER_US)]))
    return old


async def test_what_was_spent_and_used_stays_as_it_was(store: Store) -> None:
    await posted(store)
    everything = UsageQuery("2000-01-01", "2100-01-01", None, frozenset(Group), limit=100)

    async def told() -> object:
        return await store.owner_totals("users/alice"), await store.usage(everything)

    before = await told()
    assert await archived(store) == 3
    assert await told() == before
    assert await archived(store) == 0
    assert len(await store.list_charges(ChargeQuery())) == 1


async def test_a_late_repeat_of_an_archived_entry_has_no_effect_and_another_entry_is_a_conflict(
    store: Store,
) -> None:
    old = await posted(store)
    await archived(store)
    totals = await store.owner_totals("users/alice")
    again = await store.post(Batch([old[0]]))
    assert (again.charges, again.repeated, again.conflicts) == ((), 1, ())
    other = replace(old[1], entry=replace(old[1].entry, status=201))
    assert (await store.post(Batch([other]))).conflicts == (other,)
    assert await store.settled([charge.entry.decision_id for charge in old]) == {
        charge.entry.decision_id for charge in old
    }
    assert await store.owner_totals("users/alice") == totals


async def test_an_unsettled_row_stays_until_its_correction_has_come_and_then_both_go(store: Store) -> None:
    late = make_charge()
    given_up = make_unsettled(late)
    await store.post(Batch(unsettled=[given_up]))
    await posted(store)
    assert await archived(store) == 3
    assert await store.count_unsettled() == 1
    corrected = await store.post(Batch([late]))
    assert [charge.id for charge in corrected.charges] == [correction_id(given_up.entry)]
    await store.post(Batch([make_charge(admitted_at_us=LATER_US)]))
    assert await archived(store) == 2
    assert await store.charge(given_up.id) is None


async def test_it_is_told_once_in_the_audit_log(store: Store) -> None:
    await posted(store)
    await archived(store)
    assert [event.action for event in await store.list_events(AuditQuery())] == [Action.CHARGES_ARCHIVE]
