"""Conformance of every store: the audit log."""

from dataclasses import replace

import pytest
from changes import keep_key, make_event
from store.builders import NOW_US, make_key

from keytoll.core.audit import Action, AuditEvent, Picture
from keytoll.store.base import AuditQuery, NameTaken, Store


async def _keep(store: Store, events: list[AuditEvent]) -> None:
    """Keep events, each with a change of its own."""
    key = make_key()
    await keep_key(store, key)
    for number, event in enumerate(events):
        await store.update_key(replace(key, name=f"{key.id} {number}"), event=event)


async def _ids(store: Store, query: AuditQuery) -> list[str]:
    return [event.id for event in await store.list_events(query)]


async def test_an_event_reads_back_exactly(store: Store) -> None:
    before: Picture = {"name": "生产", "quota": {"kind": "total", "limit": None}}
    told = replace(make_event(), before=before, after={"list": ["a"], "x": 1, "y": True, "z": None})
    for kept in (told, replace(make_event(), subject_name="ü'\"", source="operator.sock")):
        await _keep(store, [kept])
        assert (await store.list_events(AuditQuery(action=Action.KEY_EDIT)))[0] == kept


async def test_events_are_found_by_owner_actor_action_and_time(store: Store) -> None:
    events = [
        make_event(Action.KEY_EDIT, owner="users/a", actor="users/a", at_us=NOW_US + 1),
        make_event(Action.KEY_ROTATE, owner="organizations/o", actor="users/a", at_us=NOW_US + 2),
        make_event(Action.KEY_ROTATE, owner="users/a", actor="operator", at_us=NOW_US + 3),
    ]
    await _keep(store, events)
    first, second, third = (event.id for event in events)
    assert (await _ids(store, AuditQuery(since_us=NOW_US + 1))) == [third, second, first]
    assert (await _ids(store, AuditQuery(owner="users/a", since_us=NOW_US + 1))) == [third, first]
    assert (await _ids(store, AuditQuery(actor="users/a"))) == [second, first]
    assert (await _ids(store, AuditQuery(action=Action.KEY_ROTATE))) == [third, second]
    assert (await _ids(store, AuditQuery(since_us=NOW_US + 2, until_us=NOW_US + 3))) == [second]
    assert (await _ids(store, AuditQuery(owner="users/a", actor="users/a", action=Action.KEY_ROTATE))) == []
    assert (await _ids(store, AuditQuery(after="evt_unknown"))) == []


@pytest.mark.parametrize("query", [AuditQuery(), AuditQuery(owner="users/x"), AuditQuery(action=Action.KEY_EDIT)])
async def test_pages_hold_every_event_once_also_of_one_instant(store: Store, query: AuditQuery) -> None:
    await _keep(store, [make_event(owner="users/x", at_us=NOW_US + 5 + number // 3) for number in range(8)])
    everything = await _ids(store, query)
    pages: list[str] = []
    while page := await _ids(store, replace(query, after=pages[-1] if pages else None, limit=3)):
        pages += page
    assert pages == everything
    assert len(pages) >= 8


async def test_a_change_that_is_not_made_is_not_told_of(store: Store) -> None:
    key = make_key(name="taken")
    await keep_key(store, key)
    before = await _ids(store, AuditQuery())
    with pytest.raises(NameTaken):
        await keep_key(store, make_key(name="taken"))
    other = make_key()
    assert not await store.update_key(other, event=make_event())
    assert not await store.rotate_key(other, event=make_event())
    assert not await store.delete_key(other.id, deleted_at_us=NOW_US, event=make_event())
    assert await _ids(store, AuditQuery()) == before


async def test_a_change_whose_event_cannot_be_kept_is_not_made(store: Store) -> None:
    key, event = make_key(), make_event()
    await keep_key(store, key)
    await _keep(store, [event])
    with pytest.raises(Exception):  # noqa: B017 - which one is the driver's
        await store.delete_key(key.id, deleted_at_us=NOW_US, event=event)
    assert await store.key_by_id(key.id) is not None
