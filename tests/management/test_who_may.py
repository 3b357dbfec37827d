"""Each method of the services, as an operator, an admin, a member and a stranger: allowed, forbidden or hidden."""

from collections.abc import Awaitable, Callable, Mapping

import pytest
from management.conftest import House
from store.builders import make_charge

from keytoll.core.audit import Action, AuditEvent
from keytoll.core.permissions import Actor, Forbidden, Hidden, Role
from keytoll.core.quota import Quota
from keytoll.core.usage import Group
from keytoll.management import ChargeNotFound, KeyChanges, KeyNotFound
from keytoll.store.base import AuditQuery, Batch, ChargeQuery, KeyQuery

ACME, ALICE = "organizations/acme", "users/alice"
OUTCOMES: Mapping[type[Exception], str] = {Forbidden: "no", Hidden: "gone", KeyNotFound: "gone", ChargeNotFound: "gone"}
_Call = Callable[[House, Actor], Awaitable[object]]


def _key(house: House, owner: str) -> str:
    return house.keys[owner].id


def _create(owner: str) -> _Call:
    return lambda h, by: h.management.keys.create(by, owner=owner, name="new", quota=Quota(), expires_at_us=None)


def _preview(owner: str) -> _Call:
    changes = KeyChanges(name="other")
    return lambda h, by: h.management.keys.preview_edit(by, _key(h, owner), changes, currency="CNY")


async def _explain(house: House, by: Actor) -> object:
    charge = make_charge(key_id=_key(house, ACME), owner=ACME)
    await house.store.post(Batch([charge]))
    return await house.management.books.explain_charge(by, charge.id)


_ORGANIZATION: Mapping[str, tuple[_Call, str]] = {
    # what is done: how, and what comes of it for the operator, an admin, a member and a stranger
    "create a key": (_create(ACME), "yes yes no gone"),
    "rotate a key": (lambda h, by: h.management.keys.rotate(by, _key(h, ACME)), "yes yes no gone"),
    "list its keys": (lambda h, by: h.management.keys.list(by, KeyQuery(owner=ACME)), "yes yes yes gone"),
    "look at a key": (lambda h, by: h.management.keys.get(by, _key(h, ACME)), "yes yes yes gone"),
    "look at its key": (lambda h, by: h.management.keys.get(by, _key(h, ACME), owner=ACME), "yes yes yes gone"),
    "edit a key": (lambda h, by: h.management.keys.edit(by, _key(h, ACME), KeyChanges(name="x")), "yes yes no gone"),
    "try an edit": (_preview(ACME), "yes yes no gone"),
    "delete a key": (lambda h, by: h.management.keys.delete(by, _key(h, ACME)), "yes yes no gone"),
    "look at it": (lambda h, by: h.management.owners.get_organization(by, "acme"), "yes yes yes gone"),
    "delete it": (lambda h, by: h.management.owners.delete_organization(by, "acme"), "yes no no no"),
    "list members": (lambda h, by: h.management.owners.list_members(by, "acme"), "yes yes yes gone"),
    "add a member": (lambda h, by: h.management.owners.put_member(by, "acme", "zoe", Role.MEMBER), "yes yes no gone"),
    "remove a member": (lambda h, by: h.management.owners.remove_member(by, "acme", "bob"), "yes yes yes gone"),
    "remove an admin": (lambda h, by: h.management.owners.remove_member(by, "acme", "alice"), "yes last no gone"),
    "list its charges": (
        lambda h, by: h.management.books.list_charges(by, ChargeQuery(owner=ACME)),
        "yes yes yes gone",
    ),
    "explain a charge": (_explain, "yes yes yes gone"),
    "sum its usage": (lambda h, by: h.management.books.usage(by, owner=ACME), "yes yes yes gone"),
    "read its audit log": (lambda h, by: h.management.audit.list_events(by, AuditQuery(owner=ACME)), "yes yes no gone"),
}
_PERSON: Mapping[str, tuple[_Call, str]] = {
    # for the operator, the person, and someone who is in an organization with them
    "create a key": (_create(ALICE), "yes yes gone"),
    "rotate a key": (lambda h, by: h.management.keys.rotate(by, _key(h, ALICE)), "yes yes gone"),
    "list keys": (lambda h, by: h.management.keys.list(by, KeyQuery(owner=ALICE)), "yes yes gone"),
    "look at a key": (lambda h, by: h.management.keys.get(by, _key(h, ALICE), owner=ALICE), "yes yes gone"),
    "edit a key": (lambda h, by: h.management.keys.edit(by, _key(h, ALICE), KeyChanges(name="x")), "yes yes gone"),
    "delete a key": (lambda h, by: h.management.keys.delete(by, _key(h, ALICE)), "yes yes gone"),
    "look": (lambda h, by: h.management.owners.get_user(by, "alice"), "yes yes gone"),
    "delete": (lambda h, by: h.management.owners.delete_user(by, "alice"), "yes no no"),
    "reset the token": (lambda h, by: h.management.owners.reset_access_token(by, "alice"), "yes yes gone"),
    "list charges": (lambda h, by: h.management.books.list_charges(by, ChargeQuery(owner=ALICE)), "yes yes gone"),
    "sum usage": (lambda h, by: h.management.books.usage(by, owner=ALICE), "yes yes gone"),
    "read the audit log": (lambda h, by: h.management.audit.list_events(by, AuditQuery(owner=ALICE)), "yes yes gone"),
}
_ALL: Mapping[str, tuple[_Call, str]] = {
    # for the operator, and for a person
    "list all keys": (lambda h, by: h.management.keys.list(by, KeyQuery()), "yes no"),
    "list all charges": (lambda h, by: h.management.books.list_charges(by, ChargeQuery()), "yes no"),
    "list unsettled": (
        lambda h, by: h.management.books.list_unsettled(by, after=None, limit=1, settled_later=True),
        "yes no",
    ),
    "sum all usage": (lambda h, by: h.management.books.usage(by, group_by=frozenset({Group.OWNER})), "yes no"),
    "list people": (lambda h, by: h.management.owners.list_users(by), "yes no"),
    "create a person": (lambda h, by: h.management.owners.create_user(by, "new"), "yes no"),
    "create an organization": (lambda h, by: h.management.owners.create_organization(by, "new"), "yes no"),
}


async def _outcome(call: Awaitable[object]) -> str:
    try:
        await call
    except Exception as error:  # noqa: BLE001 - what it is, is what is asked
        return OUTCOMES.get(type(error), "last" if type(error).__name__ == "LastAdmin" else repr(error))
    return "yes"


async def _asked(house: House, call: _Call, name: str, expected: str) -> None:
    actor, before = await house.actor(name), await house.events()
    assert await _outcome(call(house, actor)) == expected
    if expected != "yes":
        assert await house.events() == before


@pytest.mark.parametrize("what", _ORGANIZATION)
@pytest.mark.parametrize(("number", "name"), list(enumerate(["operator", "alice", "bob", "zoe"])))
async def test_what_may_be_done_to_an_organization(house: House, what: str, number: int, name: str) -> None:
    call, expected = _ORGANIZATION[what]
    await _asked(house, call, name, expected.split()[number])


@pytest.mark.parametrize("what", _PERSON)
@pytest.mark.parametrize(("number", "name"), list(enumerate(["operator", "alice", "bob"])))
async def test_what_may_be_done_to_a_person(house: House, what: str, number: int, name: str) -> None:
    call, expected = _PERSON[what]
    await _asked(house, call, name, expected.split()[number])


@pytest.mark.parametrize("what", _ALL)
@pytest.mark.parametrize(("number", "name"), list(enumerate(["operator", "alice"])))
async def test_what_may_be_done_to_all(house: House, what: str, number: int, name: str) -> None:
    call, expected = _ALL[what]
    await _asked(house, call, name, expected.split()[number])


@pytest.mark.parametrize("owner", ["users/nobody", "organizations/nothing", "users/bob", "organizations/zeta"])
async def test_what_is_not_there_and_what_is_hidden_look_the_same(house: House, owner: str) -> None:
    alice = await house.actor("alice")
    for call in (
        house.management.keys.list(alice, KeyQuery(owner=owner)),
        house.management.books.usage(alice, owner=owner),
        house.management.audit.list_events(alice, AuditQuery(owner=owner)),
        house.management.keys.get(alice, _key(house, ACME), owner=owner),
    ):
        with pytest.raises(Hidden):
            await call


async def test_another_owners_key_is_not_found_beside_ones_own_name(house: House) -> None:
    for name in ("alice", "operator"):
        with pytest.raises(KeyNotFound):
            await house.management.keys.delete(await house.actor(name), _key(house, ACME), owner=ALICE)


async def test_without_an_owner_a_person_reads_the_audit_log_of_all_that_they_may(house: House) -> None:
    owners = {"alice": {ALICE, ACME}, "bob": {"users/bob"}, "zoe": {"users/zoe", "organizations/zeta"}}
    for name, expected in owners.items():
        page = await house.management.audit.list_events(await house.actor(name), AuditQuery(limit=1000))
        assert {event.owner for event in page.data} == expected
        assert page.next is None
    page = await house.management.audit.list_events(await house.actor("operator"), AuditQuery(limit=1000))
    assert len(page.data) == await house.events()


async def test_pages_of_several_owners_events_hold_each_once_newest_first(house: House) -> None:
    alice = await house.actor("alice")
    for number in range(6):
        await house.new_key((ALICE, ACME)[number % 2], by=alice)
        house.clock.now_us += 1000 * (number % 3)
    whole = await house.management.audit.list_events(alice, AuditQuery(limit=1000))
    found: list[AuditEvent] = []
    after = None
    while True:
        page = await house.management.audit.list_events(alice, AuditQuery(limit=2, after=after))
        found += page.data
        if (after := page.next) is None:
            break
    assert found == whole.data
    assert [event.at_us for event in found] == sorted((event.at_us for event in found), reverse=True)
    assert all(event.action in Action for event in found)
