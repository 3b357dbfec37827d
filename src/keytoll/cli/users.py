"""`keytoll users`: people, to whom keys belong and charges go."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keytoll.cli.client import connected
from keytoll.cli.groups import group
from keytoll.cli.options import Json, RunDir, Server, Yes
from keytoll.cli.output import print_facts, print_json, print_table, when
from keytoll.core.owners import USERS, check_owner_name

app = group("People: sign them up, list, show and delete them; for operators.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The person's name, or users/NAME.")]


@app.command()
def create(name: Name, *, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """Sign a person up. To sign in, the person needs an access token: see `keytoll access-token reset`.

    Example: `keytoll users create alice`
    """
    with connected(server, run_dir) as client:
        user = client.call("POST", "/users", {"name": user_name(name)})
    if as_json:
        print_json(user)
    else:
        typer.echo(f"Signed up {user['owner']}.")


@app.command("list")
def list_(*, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """List people, with their roles in organizations.

    Example: `keytoll users list`
    """
    with connected(server, run_dir) as client:
        about = client.about
        found = list(client.items("/users", {}))
    if as_json:
        print_json(found)
    elif not found:
        typer.echo("No people.")
    else:
        print_table(["Name", "Access Token", "Organizations", "Created At"], [_row(user, about) for user in found])


@app.command()
def show(name: Name, *, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """Show a person.

    Example: `keytoll users show alice`
    """
    with connected(server, run_dir) as client:
        about = client.about
        user = client.call("GET", f"/users/{user_name(name)}")
    if as_json:
        print_json(user)
    else:
        names = ("Name", "Access Token", "Organizations", "Created")
        print_facts(dict(zip(names, _row(user, about), strict=True)))


@app.command()
def delete(
    name: Name, *, yes: Yes = False, as_json: Json = False, server: Server = None, run_dir: RunDir = None
) -> None:
    """Delete a person, with all keys, the access token and the memberships. Charges stay; the name is never used again.

    When the command returns, the keys and the token are refused. Requests that are already running finish and are charged.

    Example: `keytoll users delete alice --yes`
    """
    with connected(server, run_dir) as client:
        user = client.call("GET", f"/users/{user_name(name)}")
        if not yes:
            typer.echo(
                "All keys and the access token die with the person; requests that are already running finish and are"
                " charged. Charges stay, and the name is never used again.",
                err=True,
            )
            typer.confirm(f"Delete {user['owner']}?", abort=True, err=True)
        client.call("DELETE", f"/users/{user['name']}")
    if as_json:
        print_json({"name": user["name"], "owner": user["owner"], "deleted": True})
    else:
        typer.echo(f"Deleted {user['owner']}.")


def user_name(text: str, *, field: str = "name") -> str:
    """Return the name of a person, who may be given as an owner too. Raises InvalidValue."""
    return check_owner_name(text.removeprefix(f"{USERS}/"), field=field)


def shown_roles(memberships: list[dict[str, Any]]) -> str:
    """Return the roles of a person: `acme (admin), lab (member)`."""
    return ", ".join(f"{of['name']} ({of['role']})" for of in memberships) or "-"


def _row(user: Mapping[str, Any], about: Mapping[str, str]) -> list[str]:
    token = user["access_token"]
    return [
        user["name"],
        "-" if token is None else token["masked_token"],
        shown_roles(user["organizations"]),
        when(user["created_at"], about),
    ]
