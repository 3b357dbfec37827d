"""Changes to owners, and to what hangs on them, each within an open transaction together with the event that tells of it.

The caller holds SQLite's write lock (BEGIN IMMEDIATE), so what is read here can't change before it is written.
"""

from collections.abc import Callable, Iterable, Sequence

import aiosqlite

from keytoll.core.audit import AuditEvent
from keytoll.core.keys import Key
from keytoll.core.owners import AccessToken, Member, organization_owner, split_owner, user_owner
from keytoll.core.permissions import Role
from keytoll.store.base import LastAdmin, OwnerDeleted, OwnerNotFound, OwnerTaken
from keytoll.store.sqlite import queries, rows


async def require_owner(connection: aiosqlite.Connection, key: Key, sign_up: AuditEvent | None) -> None:
    """Make the owner of a new key if it is unknown and signed up by it. Raises OwnerNotFound and OwnerDeleted."""
    if sign_up is None:
        await _require(connection, key.owner)
    elif not await _is_there(connection, key.owner):
        await create(connection, owner=key.owner, at_us=key.created_at_us, event=sign_up)


async def create(
    connection: aiosqlite.Connection, *, owner: str, at_us: int, event: AuditEvent, first: Member | None = None
) -> None:
    """Keep a new owner, an organization with its first member. Raises OwnerTaken, OwnerDeleted and OwnerNotFound."""
    if await _is_there(connection, owner):
        raise OwnerTaken(owner)
    kind, name = split_owner(owner)
    await connection.execute_fetchall(queries.INSERT_OWNER, {"kind": kind, "name": name, "created_at_us": at_us})
    if first is not None:
        await _require(connection, user_owner(first.user))
        await connection.execute_fetchall(queries.PUT_MEMBER, rows.member_row(name, first))
    await tell(connection, [event])


async def delete(
    connection: aiosqlite.Connection,
    *,
    owner: str,
    deleted_at_us: int,
    event: AuditEvent,
    key_event: Callable[[Key], AuditEvent],
) -> Sequence[Key] | None:
    """Delete an owner with all that belongs to it, and return its keys; None if there is no such owner."""
    kind, name = split_owner(owner)
    named = {"kind": kind, "name": name, "deleted_at_us": deleted_at_us}
    if not await connection.execute_fetchall(queries.DELETE_OWNER, named):
        return None
    await connection.execute_fetchall(queries.REMOVE_FROM_ALL if kind == "users" else queries.REMOVE_MEMBERS, named)
    if kind == "users":
        await connection.execute_fetchall(queries.DROP_TOKEN, {"user": name})
    deleted = {"owner": owner, "deleted_at_us": deleted_at_us}
    keys = [rows.key(row) for row in await connection.execute_fetchall(queries.DELETE_KEYS_OF_OWNER, deleted)]
    await tell(connection, [*map(key_event, keys), event])
    return keys


async def put_token(connection: aiosqlite.Connection, *, user: str, token: AccessToken, event: AuditEvent) -> None:
    """Give a person an access token, in the place of the one before. Raises OwnerNotFound."""
    await _require(connection, user_owner(user))
    await connection.execute_fetchall(queries.PUT_TOKEN, rows.token_row(user, token))
    await tell(connection, [event])


async def put_member(
    connection: aiosqlite.Connection, *, organization: str, member: Member, keep_an_admin: bool, event: AuditEvent
) -> None:
    """Let a person belong to an organization, or have another role in it. Raises OwnerNotFound and LastAdmin."""
    await _require(connection, organization_owner(organization))
    await _require(connection, user_owner(member.user))
    if keep_an_admin and member.role is not Role.ADMIN:
        await _require_other_admin(connection, organization, member.user)
    await connection.execute_fetchall(queries.PUT_MEMBER, rows.member_row(organization, member))
    await tell(connection, [event])


async def remove_member(
    connection: aiosqlite.Connection, *, organization: str, user: str, keep_an_admin: bool, event: AuditEvent
) -> bool:
    """Remove a member; False if there is none. Raises LastAdmin."""
    if keep_an_admin:
        await _require_other_admin(connection, organization, user)
    member = {"organization": organization, "user": user}
    if not await connection.execute_fetchall(queries.REMOVE_MEMBER, member):
        return False
    await tell(connection, [event])
    return True


async def tell(connection: aiosqlite.Connection, events: Iterable[AuditEvent]) -> None:
    """Keep events."""
    await connection.executemany(queries.INSERT_EVENT, map(rows.event_row, events))


async def _is_there(connection: aiosqlite.Connection, owner: str) -> bool:
    """Return whether there is such an owner. Raises OwnerDeleted if there was."""
    kind, name = split_owner(owner)
    found = list(await connection.execute_fetchall(queries.OWNER, {"kind": kind, "name": name}))
    if found and found[0][0] is not None:
        raise OwnerDeleted(owner)
    return bool(found)


async def _require(connection: aiosqlite.Connection, owner: str) -> None:
    try:
        there = await _is_there(connection, owner)
    except OwnerDeleted:
        there = False
    if not there:
        raise OwnerNotFound(owner)


async def _require_other_admin(connection: aiosqlite.Connection, organization: str, user: str) -> None:
    """Raise LastAdmin if they are an admin, and the only one."""
    admins = await connection.execute_fetchall(queries.TWO_ADMINS, {"organization": organization})
    if [name for (name,) in admins] == [user]:
        raise LastAdmin(organization)
