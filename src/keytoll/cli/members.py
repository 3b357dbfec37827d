"""`keytoll organizations members`: who belongs to an organization, and as what."""

from typing import Annotated, Literal

import typer

from keytoll.cli.client import connected
from keytoll.cli.groups import group
from keytoll.cli.options import Json, RunDir, Server
from keytoll.cli.output import print_json, print_table, when
from keytoll.cli.users import user_name
from keytoll.core.owners import ORGANIZATIONS, check_owner_name

app = group("An organization's members: list, set and remove them.")

Organization = Annotated[
    str, typer.Argument(metavar="ORGANIZATION", help="The organization's name, or organizations/NAME.")
]
User = Annotated[str, typer.Argument(metavar="USER", help="The person's name, or users/NAME.")]
Role = Literal["admin", "member"]

_ROLE = "An admin manages the organization's keys and members; a member looks at them."


@app.command("list")
def list_(organization: Organization, *, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """List the members of an organization.

    Example: `keytoll organizations members list acme`
    """
    with connected(server, run_dir) as client:
        about = client.about
        found = list(client.items(f"/organizations/{organization_name(organization)}/members", {}))
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("No members.")
    else:
        rows = [[member["user"], member["role"], when(member["added_at"], about)] for member in found]
        print_table(["User", "Role", "Added At"], rows)


@app.command("set")
def set_(
    organization: Organization,
    user: User,
    *,
    role: Annotated[Role, typer.Option("--role", help=_ROLE)] = "member",
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Make a person a member, or give a member another role. It is in force when the command returns.

    Example: `keytoll organizations members set acme bob --role admin`
    """
    with connected(server, run_dir) as client:
        member = client.call("PUT", _path(organization, user), {"role": role})
    if as_json:
        print_json(member)
    else:
        typer.echo(f"{member['user']} is {member['role']} of {organization_name(organization)}.")


@app.command()
def remove(
    organization: Organization,
    user: User,
    *,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Remove a person from an organization, or leave it yourself. It is in force when the command returns.

    Keys that the person made for the organization are the organization's, and stay.

    Example: `keytoll organizations members remove acme bob`
    """
    with connected(server, run_dir) as client:
        client.call("DELETE", _path(organization, user))
    name, member = organization_name(organization), user_name(user)
    if as_json:
        print_json({"organization": name, "user": member, "removed": True})
    else:
        typer.echo(f"{member} is no longer in {name}.")


def organization_name(text: str) -> str:
    """Return the name of an organization, which may be given as an owner too. Raises InvalidValue."""
    return check_owner_name(text.removeprefix(f"{ORGANIZATIONS}/"))


def _path(organization: str, user: str) -> str:
    return f"/organizations/{organization_name(organization)}/members/{user_name(user, field='user')}"
