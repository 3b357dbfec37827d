"""People and organizations: who there is, who belongs to which, and the access tokens of people."""

from dataclasses import replace

from keytoll.core.audit import (
    Action,
    AuditEvent,
    Picture,
    member_picture,
    organization_picture,
    token_picture,
    user_picture,
)
from keytoll.core.errors import InvalidValue
from keytoll.core.keys import Key
from keytoll.core.owners import (
    AccessToken,
    Member,
    Organization,
    User,
    check_owner_name,
    organization_owner,
    user_owner,
)
from keytoll.core.permissions import Actor, Operator, Person, Role, Verb, check, check_operator
from keytoll.core.secrets import TOKEN_PREFIX, digest_of, mint
from keytoll.management.changes import Changes, to_the_end
from keytoll.management.keys import key_event
from keytoll.management.pages import Page, check_limit, page_of
from keytoll.store.base import OwnerNotFound, Store


class MemberNotFound(Exception):
    """The organization has no such member."""


class TokenNotFound(Exception):
    """The person has no access token."""


class Owners:
    """Creates, lists and deletes people and organizations, their members, and access tokens."""

    def __init__(self, store: Store, changes: Changes) -> None:
        self._store = store
        self._changes = changes

    async def authenticate(self, digest: bytes) -> Person | None:
        """Return whose access token has this SHA-256, with their roles as they are now; None for nobody's."""
        return await self._store.person_by_token(digest)

    # --- people ---

    async def create_user(self, by: Actor, name: str) -> User:
        """Sign a person up. For operators. Raises OwnerTaken and OwnerDeleted."""
        check_operator(by.who)
        user = User(check_owner_name(name), self._changes.clock())
        at_us, after = user.created_at_us, user_picture(user)
        event = self._event(by, Action.USER_CREATE, at_us, user.owner, name, after=after)
        await self._store.create_user(user, event=event)
        return user

    async def list_users(self, by: Actor, *, after: str | None = None, limit: int = 100) -> Page[User]:
        """Return people by name, those after the name `after`. For operators."""
        check_operator(by.who)
        found = await self._store.list_users(after=after, limit=check_limit(limit) + 1)
        return page_of(found, limit, lambda user: user.name)

    async def get_user(self, by: Actor, name: str) -> User:
        """Return a person. Raises OwnerNotFound."""
        check(by.who, Verb.LOOK, user_owner(name))
        return await self._user(name)

    async def delete_user(self, by: Actor, name: str) -> None:
        """Delete a person with all keys, the access token and memberships. For operators.

        Raises OwnerNotFound and NotEverywhere.
        """
        check_operator(by.who)
        await self._changes.everywhere(self._delete_user(by, name))

    async def reset_access_token(self, by: Actor, user: str) -> tuple[AccessToken, str]:
        """Give a person a new access token, and return it with its secret, which is nowhere kept; an old one ends.

        Raises OwnerNotFound.
        """
        return await to_the_end(self._reset(by, user))

    async def revoke_access_token(self, by: Actor, user: str) -> None:
        """Take a person's access token away. Raises OwnerNotFound and TokenNotFound."""
        await to_the_end(self._revoke(by, user))

    # --- organizations ---

    async def create_organization(self, by: Actor, name: str, *, admin: str | None = None) -> Organization:
        """Sign an organization up, with an admin or with nobody. For operators. Raises OwnerTaken and OwnerDeleted."""
        check_operator(by.who)
        now_us = self._changes.clock()
        first = None if admin is None else Member(check_owner_name(admin, field="admin"), Role.ADMIN, now_us)
        organization = Organization(check_owner_name(name), now_us, members=0 if first is None else 1)
        picture = organization_picture(organization, admin=admin)
        event = self._event(by, Action.ORGANIZATION_CREATE, now_us, organization.owner, name, after=picture)
        try:
            await self._store.create_organization(organization, admin=first, event=event)
        except OwnerNotFound:
            raise InvalidValue("admin", "there is no person of this name") from None
        return organization

    async def list_organizations(self, by: Actor, *, after: str | None = None, limit: int = 100) -> Page[Organization]:
        """Return organizations by name, those after the name `after`: a person's own ones, to an operator all."""
        of = None if isinstance(by.who, Operator) else by.who.name
        found = await self._store.list_organizations(of=of, after=after, limit=check_limit(limit) + 1)
        return page_of(found, limit, lambda organization: organization.name)

    async def get_organization(self, by: Actor, name: str) -> Organization:
        """Return an organization. Raises OwnerNotFound."""
        check(by.who, Verb.LOOK, organization_owner(name))
        return await self._organization(name)

    async def delete_organization(self, by: Actor, name: str) -> None:
        """Delete an organization with all keys and memberships. For operators.

        Raises OwnerNotFound and NotEverywhere.
        """
        check_operator(by.who)
        await self._changes.everywhere(self._delete_organization(by, name))

    async def list_members(
        self, by: Actor, organization: str, *, after: str | None = None, limit: int = 100
    ) -> Page[Member]:
        """Return members by name, those after the name `after`. Raises OwnerNotFound."""
        check(by.who, Verb.LOOK, organization_owner(organization))
        await self._organization(organization)
        found = await self._store.list_members(organization, after=after, limit=check_limit(limit) + 1)
        return page_of(found, limit, lambda member: member.user)

    async def put_member(self, by: Actor, organization: str, user: str, role: Role) -> Member:
        """Let a person belong to an organization, or have another role in it. Raises OwnerNotFound and LastAdmin."""
        return await to_the_end(self._put_member(by, organization, user, role))

    async def remove_member(self, by: Actor, organization: str, user: str) -> None:
        """Remove a member; anybody may leave. Raises OwnerNotFound, MemberNotFound and LastAdmin."""
        await to_the_end(self._remove_member(by, organization, user))

    # --- each change, one after another ---

    async def _delete_user(self, by: Actor, name: str) -> None:
        async with self._changes.turn(by) as by:
            user, now_us = await self._user(name), self._changes.clock()
            before = user_picture(user)
            event = self._event(by, Action.USER_DELETE, now_us, user.owner, name, before=before)
            await self._delete(by, user.owner, now_us, event)

    async def _delete_organization(self, by: Actor, name: str) -> None:
        async with self._changes.turn(by) as by:
            organization, now_us = await self._organization(name), self._changes.clock()
            picture = organization_picture(organization)
            event = self._event(by, Action.ORGANIZATION_DELETE, now_us, organization.owner, name, before=picture)
            await self._delete(by, organization.owner, now_us, event)

    async def _reset(self, by: Actor, user: str) -> tuple[AccessToken, str]:
        async with self._changes.turn(by) as by:
            check(by.who, Verb.MANAGE_TOKEN, user_owner(user))
            before, now_us = (await self._user(user)).access_token, self._changes.clock()
            secret = mint(TOKEN_PREFIX, self._changes.random(32))
            token = AccessToken(digest_of(secret), secret[-4:], now_us)
            pictures = {"before": token_picture(before), "after": token_picture(token)}
            event = self._event(by, Action.ACCESS_TOKEN_RESET, now_us, user_owner(user), user, **pictures)
            await self._store.put_access_token(user, token, event=event)
        return token, secret

    async def _revoke(self, by: Actor, user: str) -> None:
        async with self._changes.turn(by) as by:
            check(by.who, Verb.MANAGE_TOKEN, user_owner(user))
            before, now_us = (await self._user(user)).access_token, self._changes.clock()
            picture = token_picture(before)
            event = self._event(by, Action.ACCESS_TOKEN_REVOKE, now_us, user_owner(user), user, before=picture)
            if not await self._store.drop_access_token(user, event=event):
                raise TokenNotFound(user)

    async def _put_member(self, by: Actor, organization: str, user: str, role: Role) -> Member:
        async with self._changes.turn(by) as by:
            check(by.who, Verb.MANAGE_MEMBERS, organization_owner(organization))
            before, now_us = await self._store.member(organization, user), self._changes.clock()
            if before is not None and before.role is role:
                return before
            member = Member(user, role, now_us) if before is None else replace(before, role=role)
            owner, pictures = (
                organization_owner(organization),
                {"before": member_picture(before), "after": member_picture(member)},
            )
            event = self._event(by, Action.MEMBER_PUT, now_us, owner, user, **pictures)
            await self._store.put_member(organization, member, event=event, keep_an_admin=_is_bound(by))
        return member

    async def _remove_member(self, by: Actor, organization: str, user: str) -> None:
        async with self._changes.turn(by) as by:
            leaves = isinstance(by.who, Person) and by.who.name == user
            check(by.who, Verb.LOOK if leaves else Verb.MANAGE_MEMBERS, organization_owner(organization))
            await self._organization(organization)
            before, now_us = await self._store.member(organization, user), self._changes.clock()
            if before is None:
                raise MemberNotFound(user)
            owner, picture = organization_owner(organization), member_picture(before)
            event = self._event(by, Action.MEMBER_REMOVE, now_us, owner, user, before=picture)
            keep = _is_bound(by)
            if not await self._store.remove_member(organization, user, event=event, keep_an_admin=keep):
                raise MemberNotFound(user)

    async def _user(self, name: str) -> User:
        user = await self._store.user(name)
        if user is None:
            raise OwnerNotFound(user_owner(name))
        return user

    async def _organization(self, name: str) -> Organization:
        organization = await self._store.organization(name)
        if organization is None:
            raise OwnerNotFound(organization_owner(name))
        return organization

    async def _delete(self, by: Actor, owner: str, at_us: int, event: AuditEvent) -> None:
        """Delete an owner with its keys, of each of which an event of its own tells."""

        def told(key: Key) -> AuditEvent:
            deleted.append(key)
            return key_event(self._changes, by, Action.KEY_DELETE, at_us, key, before=key)

        deleted: list[Key] = []
        deleting = self._store.delete_owner(owner, deleted_at_us=at_us, event=event, key_event=told)
        try:
            found = await deleting
        finally:
            # Also after a failure: the store may have kept the change, and only its answer may have been lost.
            self._changes.forget(digest for key in deleted for digest in key.digests)
        if found is None:
            raise OwnerNotFound(owner)

    def _event(
        self,
        by: Actor,
        action: Action,
        at_us: int,
        owner: str,
        subject: str,
        *,
        before: Picture | None = None,
        after: Picture | None = None,
    ) -> AuditEvent:
        return self._changes.event(by, action, at_us=at_us, owner=owner, subject=subject, before=before, after=after)


def _is_bound(by: Actor) -> bool:
    """Return whether an organization must keep an admin: only an operator may leave it without one."""
    return not isinstance(by.who, Operator)
