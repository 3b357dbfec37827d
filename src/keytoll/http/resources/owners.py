"""People and their access tokens, organizations and their members."""

from typing import Annotated

from fastapi import APIRouter, Query

from keytoll.core.permissions import Role
from keytoll.http.contract.common import PageQuery
from keytoll.http.contract.owners import (
    AccessTokenOut,
    MemberIn,
    MemberOut,
    MemberPage,
    NewAccessToken,
    OrganizationIn,
    OrganizationOut,
    OrganizationPage,
    UserIn,
    UserOut,
    UserPage,
)
from keytoll.http.guard import GuardedRoute
from keytoll.http.resources.common import (
    NOT_EVERYWHERE,
    ORGANIZATION,
    ROOT,
    USER,
    By,
    Nothing,
    OrganizationName,
    Services,
    UserName,
    problems,
)
from keytoll.management import TokenNotFound

_PageQuery = Annotated[PageQuery, Query()]
_people = APIRouter(prefix=f"{ROOT}/users", route_class=GuardedRoute, tags=["people"])
_person = APIRouter(prefix=USER.path, route_class=GuardedRoute, tags=["people"])
_organizations = APIRouter(prefix=f"{ROOT}/organizations", route_class=GuardedRoute, tags=["organizations"])
_organization = APIRouter(prefix=ORGANIZATION.path, route_class=GuardedRoute, tags=["organizations"])
ROUTERS = (_people, _person, _organizations, _organization)


@_people.get("", operation_id="list_users")
async def list_users(query: _PageQuery, by: By, services: Services) -> UserPage:
    """List all people, by name. For operators."""
    page = await services.owners.list_users(by, after=query.after, limit=query.limit)
    return UserPage(data=[UserOut.of(user) for user in page.data], next=page.next)


@_people.post("", status_code=201, operation_id="create_user", responses=problems(409, 413))
async def create_user(body: UserIn, _: Nothing, by: By, services: Services) -> UserOut:
    """Sign a person up. For operators. The name of somebody who was deleted is not used again."""
    return UserOut.of(await services.owners.create_user(by, body.name))


@_person.get("", operation_id="get_user", responses=problems(404))
async def get_user(user: UserName, _: Nothing, by: By, services: Services) -> UserOut:
    """Show a person. For themselves, and operators."""
    return UserOut.of(await services.owners.get_user(by, user))


@_person.delete("", status_code=204, operation_id="delete_user", responses=NOT_EVERYWHERE | problems(404))
async def delete_user(user: UserName, _: Nothing, by: By, services: Services) -> None:
    """Delete a person with all keys, the access token and memberships; in force when answered. For operators."""
    await services.owners.delete_user(by, user)


@_person.get("/access-token", operation_id="get_access_token", responses=problems(404))
async def get_access_token(user: UserName, _: Nothing, by: By, services: Services) -> AccessTokenOut:
    """Show a person's access token, masked. For themselves, and operators."""
    token = (await services.owners.get_user(by, user)).access_token
    if token is None:
        raise TokenNotFound(user)
    return AccessTokenOut.of(token)


@_person.post("/access-token/reset", status_code=201, operation_id="reset_access_token", responses=problems(404))
async def reset_access_token(user: UserName, _: Nothing, by: By, services: Services) -> NewAccessToken:
    """Give a person a new access token, which the answer alone holds; an earlier one ends at once."""
    token, secret = await services.owners.reset_access_token(by, user)
    return NewAccessToken(**AccessTokenOut.of(token).model_dump(), secret=secret)


@_person.delete("/access-token", status_code=204, operation_id="revoke_access_token", responses=problems(404))
async def revoke_access_token(user: UserName, _: Nothing, by: By, services: Services) -> None:
    """Take a person's access token away; in force when answered. An operator can make a new one."""
    await services.owners.revoke_access_token(by, user)


@_organizations.get("", operation_id="list_organizations")
async def list_organizations(query: _PageQuery, by: By, services: Services) -> OrganizationPage:
    """List organizations, by name: a person's own ones, to an operator all."""
    page = await services.owners.list_organizations(by, after=query.after, limit=query.limit)
    return OrganizationPage(data=[OrganizationOut.of(each, by) for each in page.data], next=page.next)


@_organizations.post("", status_code=201, operation_id="create_organization", responses=problems(409, 413))
async def create_organization(body: OrganizationIn, _: Nothing, by: By, services: Services) -> OrganizationOut:
    """Make an organization, with its first admin, if one is named. For operators."""
    return OrganizationOut.of(await services.owners.create_organization(by, body.name, admin=body.admin), by)


@_organization.get("", operation_id="get_organization", responses=problems(404))
async def get_organization(organization: OrganizationName, _: Nothing, by: By, services: Services) -> OrganizationOut:
    """Show an organization."""
    return OrganizationOut.of(await services.owners.get_organization(by, organization), by)


@_organization.delete("", status_code=204, operation_id="delete_organization", responses=NOT_EVERYWHERE | problems(404))
async def delete_organization(organization: OrganizationName, _: Nothing, by: By, services: Services) -> None:
    """Delete an organization with all its keys; in force when answered. For operators."""
    await services.owners.delete_organization(by, organization)


@_organization.get("/members", operation_id="list_members", responses=problems(404))
async def list_members(organization: OrganizationName, query: _PageQuery, by: By, services: Services) -> MemberPage:
    """List an organization's members, by name. For its members, and operators."""
    page = await services.owners.list_members(by, organization, after=query.after, limit=query.limit)
    return MemberPage(data=[MemberOut.of(member) for member in page.data], next=page.next)


@_organization.put("/members/{user}", operation_id="put_member", responses=problems(404, 409, 413))
async def put_member(
    organization: OrganizationName, user: UserName, body: MemberIn, _: Nothing, by: By, services: Services
) -> MemberOut:
    """Let a person belong to an organization, or have another role in it. For its admins, and operators."""
    return MemberOut.of(await services.owners.put_member(by, organization, user, Role(body.role)))


@_organization.delete("/members/{user}", status_code=204, operation_id="remove_member", responses=problems(404, 409))
async def remove_member(organization: OrganizationName, user: UserName, _: Nothing, by: By, services: Services) -> None:
    """Remove a member. For admins and operators; and anybody may leave. The last admin stays."""
    await services.owners.remove_member(by, organization, user)
