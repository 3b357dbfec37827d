"""Who may do what: one table, by what somebody is to an owner.

A person is everything to what belongs to that person. In an organization a person has a role, or is nothing to it.
Operators are above all owners. Whoever may not even look learns nothing, not even that the owner is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What a person is in an organization: admins manage it, members look at it."""

    ADMIN = "admin"
    MEMBER = "member"


class Verb(StrEnum):
    """What can be done to an owner, or to what belongs to it."""

    LOOK = "look"  # at its keys (masked), its members, what it spent
    MANAGE_KEYS = "manage_keys"
    MANAGE_MEMBERS = "manage_members"
    MANAGE_TOKEN = "manage_token"  # noqa: S105 - a person's access token
    AUDIT = "audit"
    OPERATE = "operate"  # make and delete owners, see what belongs to all of them


class _Relation(StrEnum):
    SELF = "self"
    ADMIN = "admin"
    MEMBER = "member"


@dataclass(frozen=True, slots=True)
class Operator:
    """Whoever runs Keytoll."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person who is signed in, with the role in each organization by its name."""

    name: str
    roles: Mapping[str, Role] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """The person as an owner."""
        return f"users/{self.name}"


Who = Operator | Person


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for something, and from where: an address, or the name of the operator's socket.

    `token` is the digest of the access token that a person came with, if they came with one.
    """

    who: Who
    source: str
    token: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The actor as it is recorded: `operator` or `users/NAME`."""
        return "operator" if isinstance(self.who, Operator) else self.who.owner


class Hidden(Exception):
    """They may not know of it: to them there is no such owner."""


class Forbidden(Exception):
    """They may look, but not do this."""


class SignedOut(Exception):
    """They are not known any more: the access token was reset or revoked since they asked, or the person deleted."""


_TABLE: Mapping[_Relation, frozenset[Verb]] = {
    _Relation.SELF: frozenset({Verb.LOOK, Verb.MANAGE_KEYS, Verb.MANAGE_TOKEN, Verb.AUDIT}),
    _Relation.ADMIN: frozenset({Verb.LOOK, Verb.MANAGE_KEYS, Verb.MANAGE_MEMBERS, Verb.AUDIT}),
    _Relation.MEMBER: frozenset({Verb.LOOK}),
}


def may(who: Who, verb: Verb, owner: str) -> bool:
    """Return whether they may do this to an owner, or to what belongs to it."""
    return isinstance(who, Operator) or verb in _verbs(who, owner)


def check(who: Who, verb: Verb, owner: str) -> None:
    """Raise Forbidden if they may not do this to an owner, or Hidden if they may not even look."""
    if may(who, verb, owner):
        return
    if may(who, Verb.LOOK, owner):
        raise Forbidden
    raise Hidden


def check_operator(who: Who) -> None:
    """Raise Forbidden for anyone but an operator."""
    if not isinstance(who, Operator):
        raise Forbidden


def visible(who: Person, verb: Verb) -> tuple[str, ...]:
    """Return the owners to whom a person may do this."""
    owners = (who.owner, *(f"organizations/{name}" for name in who.roles))
    return tuple(owner for owner in owners if may(who, verb, owner))


def _verbs(who: Person, owner: str) -> frozenset[Verb]:
    relation = _relation(who, owner)
    return frozenset() if relation is None else _TABLE[relation]


def _relation(who: Person, owner: str) -> _Relation | None:
    if owner == who.owner:
        return _Relation.SELF
    kind, _, name = owner.partition("/")
    role = who.roles.get(name) if kind == "organizations" else None
    return None if role is None else _Relation(role.value)
