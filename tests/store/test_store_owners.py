"""Conformance of every store: people, organizations, members and access tokens, each change with its event."""

import asyncio
from dataclasses import replace

import pytest
from changes import keep_key, make_event
from store.builders import NOW_US, make_charge, make_key, unique

from keytoll.core.audit import Action, AuditEvent
from keytoll.core.keys import Key
from keytoll.core.owners import AccessToken, Member, Organization, User, user_owner
from keytoll.core.permissions import Person, Role
from keytoll.store.base import (
    AuditQuery,
    Batch,
    ChargeQuery,
    LastAdmin,
    OwnerDeleted,
    OwnerNotFound,
    OwnerTaken,
    Store,
)

ADMIN, MEMBER = Role.ADMIN, Role.MEMBER


def make_token(number: int = 1) -> AccessToken:
    """Return a token; of one number it is always the same."""
    return AccessToken(number.to_bytes(32), f"{number:04d}", NOW_US + number)


async def sign_up(store: Store, *names: str) -> None:
    """Create people."""
    for name in names:
        await store.create_user(User(name, NOW_US), event=make_event(Action.USER_CREATE))


async def found(store: Store, name: str = "acme", admin: str | None = None) -> None:
    """Create an organization."""
    first = None if admin is None else Member(admin, ADMIN, NOW_US)
    event = make_event(Action.ORGANIZATION_CREATE)
    await store.create_organization(Organization(name, NOW_US, 0), admin=first, event=event)


async def put(store: Store, user: str, role: Role, *, organization: str = "acme", keep_an_admin: bool = True) -> None:
    """Put a member."""
    member = Member(user, role, NOW_US)
    await store.put_member(organization, member, event=make_event(Action.MEMBER_PUT), keep_an_admin=keep_an_admin)


async def remove(store: Store, user: str, *, organization: str = "acme", keep_an_admin: bool = True) -> bool:
    """Remove a member."""
    event = make_event(Action.MEMBER_REMOVE)
    return await store.remove_member(organization, user, event=event, keep_an_admin=keep_an_admin)


async def delete(store: Store, owner: str) -> list[str] | None:
    """Delete an owner; return the ids of its keys."""
    event = make_event(Action.USER_DELETE, owner=owner)
    keys = await store.delete_owner(owner, deleted_at_us=NOW_US, event=event, key_event=_key_event)
    return None if keys is None else sorted(key.id for key in keys)


def _key_event(key: Key) -> AuditEvent:
    return replace(make_event(Action.KEY_DELETE, owner=key.owner), subject=key.id)


async def _members(store: Store, organization: str = "acme") -> dict[str, Role]:
    return {m.user: m.role for m in await store.list_members(organization, after=None, limit=100)}


async def _told(store: Store) -> int:
    return len(await store.list_events(AuditQuery(limit=1000)))


# --- people and organizations ---


async def test_a_person_is_found_and_listed_by_name_with_token_and_roles(store: Store) -> None:
    await sign_up(store, "carol", "alice", "bob")
    await found(store, "acme", "alice")
    await found(store, "zeta", "bob")
    await put(store, "alice", MEMBER, organization="zeta")
    await store.put_access_token("alice", make_token(), event=make_event())
    alice = User("alice", NOW_US, make_token(), {"acme": ADMIN, "zeta": MEMBER})
    assert await store.user("alice") == alice
    assert await store.list_users(after=None, limit=9) == [
        alice,
        User("bob", NOW_US, None, {"zeta": ADMIN}),
        User("carol", NOW_US),
    ]
    assert [user.name for user in await store.list_users(after="alice", limit=1)] == ["bob"]
    assert await store.user("dave") is None
    assert await store.user("acme") is None


async def test_an_organization_is_found_and_listed_by_name_with_how_many_belong_to_it(store: Store) -> None:
    await sign_up(store, "alice", "bob")
    await found(store, "zeta")
    await found(store, "acme", "alice")
    await put(store, "bob", MEMBER)
    acme, zeta = Organization("acme", NOW_US, 2), Organization("zeta", NOW_US, 0)
    assert await store.organization("acme") == acme
    assert await store.list_organizations(of=None, after=None, limit=9) == [acme, zeta]
    assert await store.list_organizations(of=None, after="acme", limit=9) == [zeta]
    assert await store.list_organizations(of="bob", after=None, limit=9) == [acme]
    assert await store.list_organizations(of="bob", after="acme", limit=9) == []
    assert await store.organization("alice") is None


async def test_a_person_and_an_organization_may_have_one_name_but_two_people_may_not(store: Store) -> None:
    await sign_up(store, "acme")
    await found(store, "acme")
    before = await _told(store)
    with pytest.raises(OwnerTaken):
        await sign_up(store, "acme")
    with pytest.raises(OwnerTaken):
        await found(store, "acme")
    assert await _told(store) == before


async def test_the_name_of_a_deleted_owner_is_never_used_again(store: Store) -> None:
    await sign_up(store, "alice", "bob")
    await found(store, "acme")
    for owner in ("users/alice", "organizations/acme"):
        assert await delete(store, owner) == []
        assert await delete(store, owner) is None
    with pytest.raises(OwnerDeleted):
        await sign_up(store, "alice")
    with pytest.raises(OwnerDeleted):
        await found(store, "acme")
    with pytest.raises(OwnerDeleted):
        await keep_key(store, make_key(owner="users/alice"))
    for call in (put(store, "bob", MEMBER), put(store, "alice", MEMBER)):
        with pytest.raises(OwnerNotFound):
            await call
    with pytest.raises(OwnerNotFound):
        await store.put_access_token("alice", make_token(), event=make_event())
    assert [user.name for user in await store.list_users(after=None, limit=9)] == ["bob"]
    assert await store.list_organizations(of=None, after=None, limit=9) == []


async def test_an_organization_is_not_made_with_an_admin_who_is_not_there(store: Store) -> None:
    with pytest.raises(OwnerNotFound):
        await found(store, "acme", "nobody")
    assert await store.organization("acme") is None
    await found(store, "acme")


async def test_deleting_a_person_takes_token_memberships_and_keys_and_leaves_what_was_charged(store: Store) -> None:
    await sign_up(store, "alice")
    await found(store, "acme", "alice")
    await store.put_access_token("alice", make_token(), event=make_event())
    keys = [make_key(owner="users/alice") for _ in range(3)]
    other = make_key(owner="organizations/acme")
    for key in (*keys, other):
        await keep_key(store, key)
    await store.delete_key(keys[0].id, deleted_at_us=NOW_US, event=make_event())
    charge = make_charge(5, key_id=keys[1].id)
    await store.post(Batch([charge]))
    assert await delete(store, "users/alice") == [key.id for key in keys[1:]]
    assert await store.user("alice") is None
    assert await store.person_by_token(make_token().digest) is None
    assert await _members(store) == {}
    assert [await store.key_by_digest(key.digest) for key in keys] == [None] * 3
    assert await store.key_by_id(other.id) is not None
    assert await store.list_charges(ChargeQuery(owner="users/alice")) == [charge]
    assert await store.key_names([keys[1].id]) == {keys[1].id: keys[1].name}


async def test_each_key_of_a_deleted_owner_is_told_of_by_an_event_of_its_own(store: Store) -> None:
    keys = [make_key(owner="organizations/acme") for _ in range(3)]
    for key in keys:
        await keep_key(store, key)
    await delete(store, "organizations/acme")
    told = await store.list_events(AuditQuery(action=Action.KEY_DELETE))
    assert sorted(event.subject for event in told) == [key.id for key in keys]


# --- keys and their owners ---


async def test_a_key_signs_its_owner_up_once_and_only_if_it_may(store: Store) -> None:
    with pytest.raises(OwnerNotFound):
        await store.create_key(make_key(owner="users/new"), event=make_event())
    assert await store.user("new") is None
    for _ in range(2):
        await keep_key(store, make_key(owner="users/new"))
    assert len(await store.list_events(AuditQuery(action=Action.USER_CREATE))) == 1
    await store.create_key(make_key(owner="users/new"), event=make_event())
    assert await store.user("new") == User("new", NOW_US)


async def test_a_key_is_created_with_its_owner_there_or_not_at_all_while_that_is_deleted(store: Store) -> None:
    """Whichever comes first: no key is left alive that an owner's deletion didn't tell of."""
    for turn in range(15):
        name = unique("u")
        await sign_up(store, name)
        keys = [make_key(owner=user_owner(name)) for _ in range(4)]
        creating = [store.create_key(key, event=make_event()) for key in keys]
        calls = [*creating[: turn % 5], delete(store, user_owner(name)), *creating[turn % 5 :]]
        results = await asyncio.gather(*calls, return_exceptions=True)
        deleted = results.pop(turn % 5)
        made = [key.id for key, result in zip(keys, results, strict=True) if result is None]
        assert deleted == made
        assert all(isinstance(result, OwnerNotFound) for result in results if result is not None)
        assert [await store.key_by_digest(key.digest) for key in keys] == [None] * 4


# --- access tokens ---


async def test_a_token_leads_to_its_person_and_the_roles_of_now(store: Store) -> None:
    await sign_up(store, "alice", "bob")
    await found(store, "acme", "alice")
    await store.put_access_token("alice", make_token(), event=make_event())
    assert await store.person_by_token(make_token().digest) == Person("alice", {"acme": ADMIN})
    await put(store, "alice", MEMBER, keep_an_admin=False)
    assert await store.person_by_token(make_token().digest) == Person("alice", {"acme": MEMBER})
    await delete(store, "organizations/acme")
    assert await store.person_by_token(make_token().digest) == Person("alice")
    assert await store.person_by_token(make_token(2).digest) is None


async def test_a_new_token_replaces_the_old_one_and_can_be_dropped_once(store: Store) -> None:
    await sign_up(store, "alice")
    for number in (1, 2):
        await store.put_access_token("alice", make_token(number), event=make_event())
    assert await store.person_by_token(make_token(1).digest) is None
    assert await store.user("alice") == User("alice", NOW_US, make_token(2))
    before = await _told(store)
    assert await store.drop_access_token("alice", event=make_event())
    assert not await store.drop_access_token("alice", event=make_event())
    assert await store.person_by_token(make_token(2).digest) is None
    assert await _told(store) == before + 1


async def test_of_tokens_that_are_reset_at_once_exactly_one_is_active(store: Store) -> None:
    await sign_up(store, "alice")
    tokens = [make_token(number) for number in range(1, 11)]
    await asyncio.gather(*(store.put_access_token("alice", token, event=make_event()) for token in tokens))
    active = [token for token in tokens if await store.person_by_token(token.digest) is not None]
    user = await store.user("alice")
    assert user is not None
    assert active == [user.access_token]


# --- members ---


async def test_members_are_listed_by_name_and_stay_since_when_they_were_added(store: Store) -> None:
    await sign_up(store, "carol", "alice", "bob")
    await found(store, "acme", "carol")
    for user in ("bob", "alice"):
        await put(store, user, MEMBER)
    later = Member("bob", ADMIN, NOW_US + 5)
    await store.put_member("acme", later, event=make_event(), keep_an_admin=True)
    expected = [Member("alice", MEMBER, NOW_US), Member("bob", ADMIN, NOW_US), Member("carol", ADMIN, NOW_US)]
    assert await store.list_members("acme", after=None, limit=9) == expected
    assert await store.list_members("acme", after="alice", limit=1) == expected[1:2]
    assert await store.member("acme", "bob") == expected[1]
    assert await store.member("acme", "dave") is None
    assert await store.list_members("zeta", after=None, limit=9) == []


async def test_nobody_is_put_where_one_of_both_is_not_there(store: Store) -> None:
    await sign_up(store, "alice")
    await found(store)
    before = await _told(store)
    for user, organization in (("alice", "zeta"), ("bob", "acme")):
        with pytest.raises(OwnerNotFound):
            await put(store, user, ADMIN, organization=organization)
    assert not await remove(store, "alice")
    assert await _told(store) == before


async def test_the_last_admin_stays_one_unless_it_is_an_operator_who_changes_that(store: Store) -> None:
    await sign_up(store, "alice", "bob")
    await found(store, "acme", "alice")
    await put(store, "bob", MEMBER)
    before = await _told(store)
    with pytest.raises(LastAdmin):
        await remove(store, "alice")
    with pytest.raises(LastAdmin):
        await put(store, "alice", MEMBER)
    assert await _told(store) == before
    assert await _members(store) == {"alice": ADMIN, "bob": MEMBER}
    await put(store, "bob", ADMIN)
    await put(store, "alice", MEMBER)
    assert await remove(store, "alice")
    assert await remove(store, "bob", keep_an_admin=False)
    assert await _members(store) == {}


async def test_a_member_may_go_where_there_is_no_admin_or_one_other(store: Store) -> None:
    await sign_up(store, "alice", "bob")
    await found(store)
    await put(store, "alice", MEMBER)
    assert await remove(store, "alice")


async def test_of_admins_that_are_removed_at_once_one_stays(store: Store) -> None:
    names = [unique("u") for _ in range(6)]
    await sign_up(store, *names)
    for turn in range(6):
        organization = unique("o")
        await found(store, organization, names[0])
        for name in names[1:]:
            await put(store, name, ADMIN, organization=organization)
        leaving = [
            put(store, name, MEMBER, organization=organization)
            if (number + turn) % 2
            else remove(store, name, organization=organization)
            for number, name in enumerate(names)
        ]
        results = await asyncio.gather(*leaving, return_exceptions=True)
        assert [type(result) for result in results].count(LastAdmin) == 1
        assert list((await _members(store, organization)).values()).count(ADMIN) == 1
