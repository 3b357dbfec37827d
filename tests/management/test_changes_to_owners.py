"""Changes to people and organizations: in force when they return, and told of."""

import asyncio
from collections.abc import Sequence

import pytest
from changes import OPERATOR
from management.conftest import House

from keytoll.core.audit import Action
from keytoll.core.errors import InvalidValue
from keytoll.core.keys import Key
from keytoll.core.permissions import Actor, Person, Role
from keytoll.core.quota import Quota
from keytoll.core.secrets import TOKEN_PREFIX, digest_of, is_well_formed
from keytoll.management import Asked, KeyChanges, KeyNotFound, MemberNotFound, TokenNotFound
from keytoll.store.base import LastAdmin, OwnerNotFound, OwnerTaken, StoreUnavailable

ACME = "organizations/acme"


async def _facts(house: House, count: int = 1) -> list[tuple[str, str, str, str, str]]:
    told = await house.told(count)
    return [(event.actor, event.action.value, event.owner, event.subject, event.source) for event in told]


async def test_a_token_leads_to_who_has_it_until_it_is_reset_or_revoked(house: House) -> None:
    owners = house.management.owners
    first, secret = await owners.reset_access_token(OPERATOR, "alice")
    assert is_well_formed(TOKEN_PREFIX, secret)
    assert first.masked == f"gw-at-****{secret[-4:]}"
    assert await owners.authenticate(digest_of(secret)) == Person("alice", {"acme": Role.ADMIN})
    house.clock.now_us += 1000
    alice = await house.actor("alice")
    _, second = await owners.reset_access_token(alice, "alice")
    assert await owners.authenticate(digest_of(secret)) is None
    assert await owners.authenticate(digest_of(second)) is not None
    (event,) = await house.told()
    assert (event.actor, event.action, event.owner) == ("users/alice", Action.ACCESS_TOKEN_RESET, "users/alice")
    assert (event.source, event.subject) == ("203.0.113.7", "alice")
    assert event.before is not None
    assert event.before["masked_token"] == first.masked
    await owners.revoke_access_token(alice, "alice")
    assert await owners.authenticate(digest_of(second)) is None
    with pytest.raises(TokenNotFound):
        await owners.revoke_access_token(alice, "alice")
    with pytest.raises(OwnerNotFound):
        await owners.reset_access_token(OPERATOR, "nobody")


async def test_no_event_holds_a_secret_or_a_digest(house: House) -> None:
    key, secret = await house.new_key("users/alice")
    rotated, other = await house.management.keys.rotate(OPERATOR, key.id, old_valid_until_us=house.clock() + 10**9)
    _, token = await house.management.owners.reset_access_token(OPERATOR, "alice")
    await house.management.owners.delete_user(OPERATOR, "alice")
    assert other is not None
    written = repr(await house.told(1000))
    for told in (secret, other, token):
        assert told[6:-4] not in written
        assert digest_of(told).hex() not in written
        assert repr(digest_of(told)) not in written
    assert f"gw-sk-****{rotated.key.last4}" in written


async def test_keys_of_a_deleted_organization_are_dead_when_it_returns(house: House) -> None:
    made = [await house.new_key(ACME) for _ in range(3)]
    rotated, _ = await house.management.keys.rotate(OPERATOR, made[0][0].id, old_valid_until_us=house.clock() + 10**9)
    secrets = [secret for _, secret in made]
    for secret in secrets:
        assert await house.checked(secret) is not None
    before = await house.events()
    await house.management.owners.delete_organization(OPERATOR, "acme")
    assert [await house.checked(secret) for secret in secrets] == [None] * 3
    assert await house.events() == before + 1 + 4
    with pytest.raises(KeyNotFound):
        await house.management.keys.get(OPERATOR, rotated.key.id)
    alice = await house.actor("alice")
    assert isinstance(alice.who, Person)
    assert alice.who.roles == {}
    with pytest.raises(OwnerNotFound):
        await house.management.owners.delete_organization(OPERATOR, "acme")


async def test_keys_are_forgotten_also_if_the_answer_of_the_store_was_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = await house.new_key(ACME)
    assert await house.checked(secret) is not None
    delete = house.store.delete_owner

    async def delete_and_fail(*args: object, **named: object) -> Sequence[Key] | None:
        await delete(*args, **named)  # type: ignore[arg-type]
        raise StoreUnavailable("the connection broke")

    monkeypatch.setattr(house.store, "delete_owner", delete_and_fail)
    with pytest.raises(StoreUnavailable):
        await house.management.owners.delete_organization(OPERATOR, "acme")
    assert await house.checked(secret) is None


async def test_a_deletion_whose_caller_left_is_in_force_all_the_same(house: House) -> None:
    _, secret = await house.new_key(ACME)
    await house.checked(secret)
    deleting = asyncio.create_task(house.management.owners.delete_organization(OPERATOR, "acme"))
    await asyncio.sleep(0)
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    async with asyncio.timeout(5):
        while await house.checked(secret) is not None:
            await asyncio.sleep(0)


async def test_an_operators_first_key_signs_its_owner_up_and_says_so(house: House) -> None:
    await house.new_key("users/carol")
    await house.new_key("organizations/initech")
    assert (await house.management.owners.get_user(OPERATOR, "carol")).roles == {}
    assert (await house.management.owners.get_organization(OPERATOR, "initech")).members == 0
    told = {(event.action, event.owner) for event in await house.told(4)}
    assert told == {
        (Action.USER_CREATE, "users/carol"),
        (Action.KEY_CREATE, "users/carol"),
        (Action.ORGANIZATION_CREATE, "organizations/initech"),
        (Action.KEY_CREATE, "organizations/initech"),
    }


async def test_an_admin_manages_members_and_the_last_one_stays(house: House) -> None:
    owners, alice = house.management.owners, await house.actor("alice")
    member = await owners.put_member(alice, "acme", "zoe", Role.MEMBER)
    assert (member.user, member.role) == ("zoe", Role.MEMBER)
    assert await _facts(house) == [("users/alice", "member.put", ACME, "zoe", "203.0.113.7")]
    for call in (
        owners.put_member(alice, "acme", "alice", Role.MEMBER),
        owners.remove_member(alice, "acme", "alice"),
    ):
        with pytest.raises(LastAdmin):
            await call
    await owners.put_member(alice, "acme", "zoe", Role.ADMIN)
    house.clock.now_us += 1000
    await owners.remove_member(alice, "acme", "alice")
    assert await _facts(house) == [("users/alice", "member.remove", ACME, "alice", "203.0.113.7")]
    with pytest.raises(MemberNotFound):
        await owners.remove_member(OPERATOR, "acme", "alice")
    await owners.remove_member(OPERATOR, "acme", "zoe")


async def test_a_member_may_leave_and_the_next_request_finds_them_gone(house: House) -> None:
    bob = await house.actor("bob")
    await house.management.owners.remove_member(bob, "acme", "bob")
    assert (await house.actor("bob")).who == Person("bob")
    page = await house.management.owners.list_organizations(await house.actor("bob"))
    assert page.data == []


async def test_a_role_that_stays_as_it_is_is_no_change(house: House) -> None:
    before = await house.events()
    await house.management.owners.put_member(OPERATOR, "acme", "bob", Role.MEMBER)
    assert await house.events() == before


async def test_an_edit_that_changes_nothing_is_not_told_of(house: House) -> None:
    before, key = await house.events(), house.keys[ACME]
    await house.management.keys.edit(OPERATOR, key.id, KeyChanges(name=key.name))
    assert await house.events() == before


async def test_what_an_edit_changed_is_told_before_and_after(house: House) -> None:
    key, alice = house.keys[ACME], await house.actor("alice")
    await house.management.keys.edit(alice, key.id, KeyChanges(name="renamed", disabled=True))
    (event,) = await house.told()
    assert event.before is not None
    assert event.after is not None
    changed = {name for name, value in event.after.items() if event.before[name] != value}
    assert changed == {"name", "disabled"}
    assert (event.actor, event.subject, event.subject_name) == ("users/alice", key.id, "renamed")


async def test_who_made_a_key_is_kept_with_it(house: House) -> None:
    key, _ = await house.new_key(ACME, by=await house.actor("alice"))
    assert key.created_by == "users/alice"
    assert house.keys[ACME].created_by == "operator"


async def test_names_that_are_taken_or_wrong_are_refused(house: House) -> None:
    owners = house.management.owners
    with pytest.raises(OwnerTaken):
        await owners.create_user(OPERATOR, "alice")
    with pytest.raises(InvalidValue, match="admin"):
        await owners.create_organization(OPERATOR, "initech", admin="nobody")
    with pytest.raises(InvalidValue, match="name"):
        await owners.create_user(OPERATOR, "no/name")
    with pytest.raises(OwnerNotFound):
        await owners.put_member(OPERATOR, "acme", "nobody", Role.MEMBER)


async def test_people_and_organizations_are_listed_by_pages(house: House) -> None:
    owners = house.management.owners
    first = await owners.list_users(OPERATOR, limit=2)
    second = await owners.list_users(OPERATOR, after=first.next, limit=2)
    assert [user.name for user in (*first.data, *second.data)] == ["alice", "bob", "zoe"]
    assert second.next is None
    of_bob = await owners.list_organizations(await house.actor("bob"))
    assert [(organization.name, organization.members) for organization in of_bob.data] == [("acme", 2)]
    members = await owners.list_members(await house.actor("bob"), "acme")
    assert [(member.user, member.role) for member in members.data] == [("alice", Role.ADMIN), ("bob", Role.MEMBER)]


async def test_two_actors_may_use_one_id_for_what_they_ask(house: House) -> None:
    async def create(by: Actor, name: str) -> str | None:
        asked = Asked("1", name)
        stored, secret = await house.management.keys.create(
            by, owner=ACME, name=name, quota=Quota(), expires_at_us=None, asked=asked
        )
        assert stored.key.name == name
        return secret

    assert await create(await house.actor("alice"), "of alice") is not None
    assert await create(OPERATOR, "of the operator") is not None
    assert await create(OPERATOR, "of the operator") is None
    created = [event for event in await house.told(1000) if event.action is Action.KEY_CREATE and event.owner == ACME]
    assert {event.subject_name for event in created} >= {"of alice", "of the operator"}
    assert len(created) == 3
