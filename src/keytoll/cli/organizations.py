"""`keytoll organizations`: organizations, to whom keys belong and charges go, and their members."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keytoll.cli import members
from keytoll.cli.client import connected
from keytoll.cli.groups import group
from keytoll.cli.members import Organization, organization_name
from keytoll.cli.options import Json, RunDir, Server, Yes
from keytoll.cli.output import print_facts, print_json, print_table, when
from keytoll.cli.users import user_name

app = group("Organizations: create, list, show and delete them; their members.")
app.add_typer(members.app, name="members")

_ADMIN = "The person who manages it from the start on; by default nobody but operators."


@app.command()
def create(
    name: Organization,
    *,
    admin: Annotated[str | None, typer.Option("--admin", metavar="USER", help=_ADMIN)] = None,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Create an organization; for operators.

    Example: `keytoll organizations create acme --admin alice`
    """
    body = {"name": organization_name(name), "admin": None if admin is None else user_name(admin, field="admin")}
    with connected(server, run_dir) as client:
        organization = client.call("POST", "/organizations", body)
    if as_json:
        print_json(organization)
    else:
        typer.echo(f"Created {organization['owner']}.")


@app.command("list")
def list_(*, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """List the organizations that you belong to; for an operator, all.

    Example: `keytoll organizations list`
    """
    with connected(server, run_dir) as client:
        about = client.about
        found = list(client.items("/organizations", {}))
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("No organizations.")
    else:
        print_table(["Name", "Members", "Your Role", "Created At"], [_row(found_, about) for found_ in found])


@app.command()
def show(name: Organization, *, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """Show an organization.

    Example: `keytoll organizations show acme`
    """
    with connected(server, run_dir) as client:
        about = client.about
        organization = client.call("GET", f"/organizations/{organization_name(name)}")
    if as_json:
        print_json(organization)
    else:
        names = ("Name", "Members", "Your Role", "Created")
        print_facts(dict(zip(names, _row(organization, about), strict=True)))


@app.command()
def delete(
    name: Organization, *, yes: Yes = False, as_json: Json = False, server: Server = None, run_dir: RunDir = None
) -> None:
    """Delete an organization with all its keys; for operators. Charges stay; the name is never used again.

    When the command returns, its keys are refused. Requests that are already running finish and are charged.

    Example: `keytoll organizations delete acme --yes`
    """
    with connected(server, run_dir) as client:
        organization = client.call("GET", f"/organizations/{organization_name(name)}")
        if not yes:
            typer.echo(
                "All its keys die with it; requests that are already running finish and are charged. Its members stay"
                " people of their own. Charges stay, and the name is never used again.",
                err=True,
            )
            typer.confirm(f"Delete {organization['owner']}?", abort=True, err=True)
        client.call("DELETE", f"/organizations/{organization['name']}")
    if as_json:
        print_json({"name": organization["name"], "owner": organization["owner"], "deleted": True})
    else:
        typer.echo(f"Deleted {organization['owner']}.")


def _row(organization: Mapping[str, Any], about: Mapping[str, str]) -> list[str]:
    return [
        organization["name"],
        str(organization["members"]),
        organization["role"] or "-",
        when(organization["created_at"], about),
    ]
