"""Owners: people and organizations, to whom keys belong and charges go, and the people's access tokens.

An owner is named `users/NAME` or `organizations/NAME`. A name is never used again once its owner is deleted: charges and
totals are kept by it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from keytoll.core.errors import InvalidValue
from keytoll.core.permissions import Role
from keytoll.core.secrets import TOKEN_PREFIX, masked

USERS, ORGANIZATIONS = "users", "organizations"

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?"
_NAMED = re.compile(_NAME, re.ASCII)
_OWNER = re.compile(rf"({USERS}|{ORGANIZATIONS})/({_NAME})", re.ASCII)
_A_NAME = "has 1 to 64 letters, digits, dots, dashes and underscores and starts and ends with a letter or digit"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A person's access token as it is kept: `digest` is the secret's SHA-256, the instant in microseconds."""

    digest: bytes = field(repr=False)
    last4: str
    created_at_us: int

    @property
    def masked(self) -> str:
        """The token as it may be shown: `gw-at-****7f2a`."""
        return masked(TOKEN_PREFIX, self.last4)


@dataclass(frozen=True, slots=True)
class User:
    """A person, with the token if there is one, and the role in each organization by its name."""

    name: str
    created_at_us: int
    access_token: AccessToken | None = None
    roles: Mapping[str, Role] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """The person as an owner."""
        return user_owner(self.name)


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization, and how many members it has."""

    name: str
    created_at_us: int
    members: int = 0

    @property
    def owner(self) -> str:
        """The organization as an owner."""
        return organization_owner(self.name)


@dataclass(frozen=True, slots=True)
class Member:
    """That a person belongs to an organization, since an instant in microseconds."""

    user: str
    role: Role
    added_at_us: int


def user_owner(name: str) -> str:
    """Return a person as an owner."""
    return f"{USERS}/{name}"


def organization_owner(name: str) -> str:
    """Return an organization as an owner."""
    return f"{ORGANIZATIONS}/{name}"


def check_owner(owner: str) -> str:
    """Return the owner if it is `users/NAME` or `organizations/NAME`. Raises InvalidValue."""
    if _OWNER.fullmatch(owner) is None:
        raise InvalidValue("owner", f"must be {USERS}/NAME or {ORGANIZATIONS}/NAME; a NAME {_A_NAME}")
    return owner


def check_owner_name(name: str, *, field: str = "name") -> str:
    """Return the name of a person or an organization. Raises InvalidValue, which names the `field`."""
    if _NAMED.fullmatch(name) is None:
        raise InvalidValue(field, f"is no NAME, which {_A_NAME}")
    return name


def split_owner(owner: str) -> tuple[str, str]:
    """Return the kind of an owner and its name."""
    kind, _, name = owner.partition("/")
    return kind, name
