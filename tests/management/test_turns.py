"""A change that waits for its turn is judged by what who asked for it is by then, not by what they were when they asked."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from changes import OPERATOR
from management.conftest import House

from keytoll.core.permissions import Actor, Forbidden, Hidden, Role, SignedOut
from keytoll.core.quota import Quota
from keytoll.core.secrets import digest_of
from keytoll.management import Asked, KeyChanges, KeyNotFound
from keytoll.store.base import OwnerDeleted

ACME, ALICE = "organizations/acme", "users/alice"
_Change = Callable[[House, Actor], Awaitable[object]]


def _create(owner: str, asked: Asked | None = None) -> _Change:
    return lambda house, by: house.management.keys.create(
        by, owner=owner, name="late", quota=Quota(), expires_at_us=None, asked=asked
    )


def _of_key(house: House, owner: str) -> str:
    return house.keys[owner].id


_IN_ACME: dict[str, _Change] = {
    "create a key": _create(ACME),
    "create a key once": _create(ACME, Asked("1", "late")),
    "rotate a key": lambda h, by: h.management.keys.rotate(by, _of_key(h, ACME)),
    "rotate its key": lambda h, by: h.management.keys.rotate(by, _of_key(h, ACME), owner=ACME),
    "edit a key": lambda h, by: h.management.keys.edit(by, _of_key(h, ACME), KeyChanges(disabled=True)),
    "delete a key": lambda h, by: h.management.keys.delete(by, _of_key(h, ACME)),
    "add a member": lambda h, by: h.management.owners.put_member(by, "acme", "zoe", Role.ADMIN),
    "remove a member": lambda h, by: h.management.owners.remove_member(by, "acme", "bob"),
}
_OF_ALICE: dict[str, _Change] = {
    "create a key": _create(ALICE),
    "edit a key": lambda h, by: h.management.keys.edit(by, _of_key(h, ALICE), KeyChanges(disabled=True)),
    "reset the token": lambda h, by: h.management.owners.reset_access_token(by, "alice"),
    "revoke the token": lambda h, by: h.management.owners.revoke_access_token(by, "alice"),
}


async def _behind(house: House, first: Awaitable[object], late: Awaitable[object]) -> tuple[object, int]:
    """Make two changes, of which the second waits for the first; return what came of it, and how many events more."""
    before = await house.events()
    _, late_one = await asyncio.gather(first, late, return_exceptions=True)
    return late_one, await house.events() - before


async def _signed_in(house: House, name: str) -> Actor:
    _, secret = await house.management.owners.reset_access_token(OPERATOR, name)
    return replace(await house.actor(name), token=digest_of(secret))


@pytest.mark.parametrize("what", _IN_ACME)
async def test_who_is_no_admin_any_more_changes_nothing(house: House, what: str) -> None:
    """User report 3."""
    owners, alice = house.management.owners, await _signed_in(house, "alice")
    demoted = owners.put_member(OPERATOR, "acme", "alice", Role.MEMBER)
    assert [type(each) for each in await _behind(house, demoted, _IN_ACME[what](house, alice))] == [Forbidden, int]
    late, events = await _behind(house, owners.remove_member(OPERATOR, "acme", "alice"), _IN_ACME[what](house, alice))
    assert isinstance(late, Hidden | KeyNotFound)
    assert events == 1


@pytest.mark.parametrize("what", _OF_ALICE)
async def test_a_token_that_was_reset_or_revoked_changes_nothing(house: House, what: str) -> None:
    owners = house.management.owners
    for end in (owners.reset_access_token, owners.revoke_access_token):
        alice = await _signed_in(house, "alice")
        late, events = await _behind(house, end(OPERATOR, "alice"), _OF_ALICE[what](house, alice))
        assert isinstance(late, SignedOut)
        assert events == 1


async def test_a_person_who_is_deleted_meanwhile_makes_no_key(house: House) -> None:
    bob = await house.actor("bob")
    late, _ = await _behind(
        house, house.management.owners.delete_user(OPERATOR, "bob"), _create("users/bob")(house, bob)
    )
    assert isinstance(late, SignedOut)
    with pytest.raises(OwnerDeleted):
        await house.new_key("users/bob")


async def test_a_role_that_was_given_meanwhile_counts(house: House) -> None:
    bob = await _signed_in(house, "bob")
    promoted = house.management.owners.put_member(OPERATOR, "acme", "bob", Role.ADMIN)
    late, events = await _behind(house, promoted, _create(ACME)(house, bob))
    assert not isinstance(late, BaseException)
    assert events == 2
