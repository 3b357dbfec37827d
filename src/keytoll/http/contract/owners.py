"""People, organizations, who belongs to which, and access tokens."""

from typing import Literal

from pydantic import Field

from keytoll.core.expiry import format_timestamp
from keytoll.core.owners import AccessToken, Member, Organization, User, organization_owner
from keytoll.core.permissions import Actor, Operator, Role
from keytoll.http.contract.common import Answer, OwnerName, Strict, Timestamp


class UserIn(Strict):
    """A person to be signed up."""

    name: str = Field(examples=["alice"])


class OrganizationIn(Strict):
    """An organization to be made, with its first admin, if one is named."""

    name: str = Field(examples=["acme"])
    admin: str | None = Field(None, description="The name of a person", examples=["alice"])


class MemberIn(Strict):
    """What a person is to be in an organization."""

    role: Literal["admin", "member"]


class SessionIn(Strict):
    """What signs a browser in."""

    access_token: str = Field(max_length=1000, examples=["gw-at-…"])


class AccessTokenOut(Answer):
    """An access token as it may be shown."""

    masked_token: str = Field(examples=["gw-at-****7f2a"])
    created_at: Timestamp

    @classmethod
    def of(cls, token: AccessToken) -> "AccessTokenOut":
        """Return the token."""
        return cls(masked_token=token.masked, created_at=format_timestamp(token.created_at_us))


class NewAccessToken(AccessTokenOut):
    """An access token just made, with its secret, this once."""

    secret: str


class MembershipOut(Answer):
    """That somebody belongs to an organization, and their role in it."""

    name: str
    owner: OwnerName
    role: Role


class UserOut(Answer):
    """A person; `access_token` is null if there is none."""

    name: str
    owner: OwnerName
    created_at: Timestamp
    access_token: AccessTokenOut | None
    organizations: list[MembershipOut]

    @classmethod
    def of(cls, user: User) -> "UserOut":
        """Return the person."""
        return cls(
            name=user.name,
            owner=user.owner,
            created_at=format_timestamp(user.created_at_us),
            access_token=_token(user),
            organizations=_memberships(user),
        )


class UserPage(Answer):
    """A page of people, by name. `next` is the `after` of the next page, null on the last."""

    data: list[UserOut]
    next: str | None


class OrganizationOut(Answer):
    """An organization, how many members it has, and the role of whoever asks, null for operators."""

    name: str
    owner: OwnerName
    created_at: Timestamp
    members: int
    role: Role | None

    @classmethod
    def of(cls, organization: Organization, by: Actor) -> "OrganizationOut":
        """Return the organization as it is to whoever asks."""
        return cls(
            name=organization.name,
            owner=organization.owner,
            created_at=format_timestamp(organization.created_at_us),
            members=organization.members,
            role=None if isinstance(by.who, Operator) else by.who.roles.get(organization.name),
        )


class OrganizationPage(Answer):
    """A page of organizations, by name. `next` is the `after` of the next page, null on the last."""

    data: list[OrganizationOut]
    next: str | None


class MemberOut(Answer):
    """A member of an organization, by name, and since when."""

    user: str
    role: Role
    added_at: Timestamp

    @classmethod
    def of(cls, member: Member) -> "MemberOut":
        """Return the member."""
        return cls(user=member.user, role=member.role, added_at=format_timestamp(member.added_at_us))


class MemberPage(Answer):
    """A page of members, by name. `next` is the `after` of the next page, null on the last."""

    data: list[MemberOut]
    next: str | None


class Me(Answer):
    """Whoever asks: a person, or an operator, who is nobody in particular."""

    kind: Literal["operator", "user"]
    name: str | None
    owner: OwnerName | None
    access_token: AccessTokenOut | None
    organizations: list[MembershipOut]

    @classmethod
    def operator(cls) -> "Me":
        """Return an operator."""
        return cls(kind="operator", name=None, owner=None, access_token=None, organizations=[])

    @classmethod
    def person(cls, user: User) -> "Me":
        """Return a person."""
        return cls(
            kind="user",
            name=user.name,
            owner=user.owner,
            access_token=_token(user),
            organizations=_memberships(user),
        )


def _token(user: User) -> AccessTokenOut | None:
    return None if user.access_token is None else AccessTokenOut.of(user.access_token)


def _memberships(user: User) -> list[MembershipOut]:
    return [
        MembershipOut(name=name, owner=organization_owner(name), role=role) for name, role in sorted(user.roles.items())
    ]
