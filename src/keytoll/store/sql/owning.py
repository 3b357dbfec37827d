"""Changes to owners, and to what hangs on them, each within an open transaction together with the event that tells of it.

What is read here can't change before it is written: SQLite's write lock is held from the start (BEGIN IMMEDIATE), and on
PostgreSQL `OWNER` and `TWO_ADMINS` lock the rows that they find, always an owner's before those of its members.
"""

from collections.abc import Callable, Iterable, Sequence

from keytoll.core.audit import AuditEvent
from keytoll.core.keys import Key
from keytoll.core.owners import AccessToken, Member, organization_owner, split_owner, user_owner
from keytoll.core.permissions import Role
from keytoll.store.base import LastAdmin, OwnerDeleted, OwnerNotFound, OwnerTaken
from keytoll.store.sql import queries, rows
from keytoll.store.sql.transactions import Transaction


async def require_owner(transaction: Transaction, key: Key, sign_up: AuditEvent | None) -> None:
    """Make the owner of a new key if it is unknown and signed up by it. Raises OwnerNotFound and OwnerDeleted."""
    if sign_up is None:
        await _require(transaction, key.owner)
    elif not await _is_there(transaction, key.owner):
        await _insert(transaction, key.owner, key.created_at_us)
        await tell(transaction, [sign_up])


async def create(
    transaction: Transaction, *, owner: str, at_us: int, event: AuditEvent, first: Member | None = None
) -> None:
    """Keep a new owner, an organization with its first member. Raises OwnerTaken, OwnerDeleted and OwnerNotFound."""
    if await _is_there(transaction, owner):
        raise OwnerTaken(owner)
    await _insert(transaction, owner, at_us)
    if first is not None:
        await _require(transaction, user_owner(first.user))
        await transaction.fetch(queries.PUT_MEMBER, rows.member_row(split_owner(owner)[1], first))
    await tell(transaction, [event])


async def delete(
    transaction: Transaction,
    *,
    owner: str,
    deleted_at_us: int,
    event: AuditEvent,
    key_event: Callable[[Key], AuditEvent],
) -> Sequence[Key] | None:
    """Delete an owner with all that belongs to it, and return its keys; None if there is no such owner."""
    kind, name = split_owner(owner)
    named = {"kind": kind, "name": name, "deleted_at_us": deleted_at_us}
    if not await transaction.fetch(queries.DELETE_OWNER, named):
        return None
    await transaction.fetch(queries.REMOVE_FROM_ALL if kind == "users" else transaction.dialect.REMOVE_MEMBERS, named)
    if kind == "users":
        await transaction.fetch(queries.DROP_TOKEN, {"user": name})
    deleted = {"owner": owner, "deleted_at_us": deleted_at_us}
    keys = [rows.key(row) for row in await transaction.fetch(transaction.dialect.DELETE_KEYS_OF_OWNER, deleted)]
    await tell(transaction, [*map(key_event, keys), event])
    return keys


async def put_token(transaction: Transaction, *, user: str, token: AccessToken, event: AuditEvent) -> None:
    """Give a person an access token, in the place of the one before. Raises OwnerNotFound."""
    await _require(transaction, user_owner(user))
    await transaction.fetch(queries.PUT_TOKEN, rows.token_row(user, token))
    await tell(transaction, [event])


async def put_member(
    transaction: Transaction, *, organization: str, member: Member, keep_an_admin: bool, event: AuditEvent
) -> None:
    """Let a person belong to an organization, or have another role in it. Raises OwnerNotFound and LastAdmin."""
    await _require(transaction, organization_owner(organization))
    await _require(transaction, user_owner(member.user))
    if keep_an_admin and member.role is not Role.ADMIN:
        await _require_other_admin(transaction, organization, member.user)
    await transaction.fetch(queries.PUT_MEMBER, rows.member_row(organization, member))
    await tell(transaction, [event])


async def remove_member(
    transaction: Transaction, *, organization: str, user: str, keep_an_admin: bool, event: AuditEvent
) -> bool:
    """Remove a member; False if there is none. Raises LastAdmin."""
    if keep_an_admin:
        await _require_other_admin(transaction, organization, user)
    member = {"organization": organization, "user": user}
    if not await transaction.fetch(queries.REMOVE_MEMBER, member):
        return False
    await tell(transaction, [event])
    return True


async def tell(transaction: Transaction, events: Iterable[AuditEvent]) -> None:
    """Keep events."""
    await transaction.repeat(queries.INSERT_EVENT, map(rows.event_row, events))


async def _insert(transaction: Transaction, owner: str, at_us: int) -> None:
    kind, name = split_owner(owner)
    await transaction.fetch(queries.INSERT_OWNER, {"kind": kind, "name": name, "created_at_us": at_us})


async def _is_there(transaction: Transaction, owner: str) -> bool:
    """Return whether there is such an owner. Raises OwnerDeleted if there was."""
    kind, name = split_owner(owner)
    found = list(await transaction.fetch(transaction.dialect.OWNER, {"kind": kind, "name": name}))
    if found and found[0][0] is not None:
        raise OwnerDeleted(owner)
    return bool(found)


async def _require(transaction: Transaction, owner: str) -> None:
    try:
        there = await _is_there(transaction, owner)
    except OwnerDeleted:
        there = False
    if not there:
        raise OwnerNotFound(owner)


async def _require_other_admin(transaction: Transaction, organization: str, user: str) -> None:
    """Raise LastAdmin if they are an admin, and the only one."""
    admins = await transaction.fetch(transaction.dialect.TWO_ADMINS, {"organization": organization})
    if [name for (name,) in admins] == [user]:
        raise LastAdmin(organization)
