"""The audit log: who changed what, from where, and how it looked before and after.

A picture of a thing is what may be shown of it, as the API writes it. No secret is in it, nor the digest of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from keytoll.core.expiry import format_timestamp
from keytoll.core.keys import Key
from keytoll.core.money import format_amount
from keytoll.core.owners import AccessToken, Member, Organization, User

Json = str | int | bool | list[str] | dict[str, str | None] | dict[str, str] | None
Picture = Mapping[str, Json]


class Action(StrEnum):
    """What was done."""

    KEY_CREATE = "key.create"
    KEY_EDIT = "key.edit"
    KEY_ROTATE = "key.rotate"
    KEY_DELETE = "key.delete"
    USER_CREATE = "user.create"
    USER_DELETE = "user.delete"
    ORGANIZATION_CREATE = "organization.create"
    ORGANIZATION_DELETE = "organization.delete"
    MEMBER_PUT = "member.put"
    MEMBER_REMOVE = "member.remove"
    CHARGES_ARCHIVE = "charges.archive"
    ACCESS_TOKEN_RESET = "access_token.reset"  # noqa: S105 - what was done, no secret
    ACCESS_TOKEN_REVOKE = "access_token.revoke"  # noqa: S105


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One change. `actor` is `operator` or `users/NAME`; `source` their address, or the name of the operator's socket.

    `owner` is whom it concerned, `subject` the key's id, or the name of the person or organization. What was made had
    no `before`, what was deleted has no `after`.
    """

    id: str
    at_us: int
    actor: str
    action: Action
    owner: str
    subject: str
    subject_name: str
    source: str
    before: Picture | None = None
    after: Picture | None = None


def key_picture(key: Key) -> Picture:
    """Return what may be shown of a key."""
    quota, networks = key.quota, key.allowed_networks
    limit = None if quota.limit_nano is None else format_amount(quota.limit_nano)
    return {
        "name": key.name,
        "owner": key.owner,
        "masked_key": key.masked,
        "quota": {"kind": quota.kind.value, "limit": limit},
        "expires_at": _timestamp(key.expires_at_us),
        "disabled": key.disabled,
        "allowed_models": None if key.allowed_models is None else list(key.allowed_models),
        "allowed_networks": None if networks is None else list(networks.texts),
        "old_valid_until": _timestamp(key.old_valid_until_us),
    }


def user_picture(user: User) -> Picture:
    """Return what may be shown of a person."""
    token = user.access_token
    return {
        "name": user.name,
        "access_token": None if token is None else token.masked,
        "organizations": {name: role.value for name, role in user.roles.items()},
    }


def organization_picture(organization: Organization, *, admin: str | None = None) -> Picture:
    """Return what may be shown of an organization, and, where it is made with one, of its first admin."""
    picture: Picture = {"name": organization.name, "members": organization.members}
    return picture if admin is None else {**picture, "admin": admin}


def member_picture(member: Member | None) -> Picture | None:
    """Return what may be shown of a membership, if there is one."""
    return None if member is None else {"user": member.user, "role": member.role.value}


def token_picture(token: AccessToken | None) -> Picture | None:
    """Return what may be shown of an access token, if there is one."""
    if token is None:
        return None
    return {"masked_token": token.masked, "created_at": format_timestamp(token.created_at_us)}


def _timestamp(at_us: int | None) -> str | None:
    return None if at_us is None else format_timestamp(at_us)
