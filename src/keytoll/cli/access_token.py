"""`keytoll access-token`: the token by which a person signs in to the console, the API and this command line."""

import os
from dataclasses import replace
from typing import Annotated

import typer

from keytoll.cli.client import Client, connected
from keytoll.cli.groups import group
from keytoll.cli.options import Json, RunDir, Server, Yes
from keytoll.cli.output import print_json, print_secret, print_table, when
from keytoll.cli.place import TOKEN, Remote
from keytoll.cli.signin import config_file, read_signin, remove_signin, write_signin
from keytoll.cli.users import user_name
from keytoll.core.owners import split_owner

app = group("Access tokens, one a person, to sign in with: show, reset and revoke them.")

User = Annotated[
    str | None,
    typer.Argument(metavar="USER", help="The person's name; by default yourself. An operator must name one."),
]


@app.command()
def show(user: User = None, *, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """Show which access token a person has, masked.

    Example: `keytoll access-token show`
    """
    with connected(server, run_dir) as client:
        about = client.about
        token = client.call("GET", _path(_name(client, user)))
    if as_json:
        print_json(token)
    else:
        print_table(["Access Token", "Created At"], [[token["masked_token"], when(token["created_at"], about)]])


@app.command()
def reset(user: User = None, *, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """Give a person an access token and print it, this once. The one before is refused when the command returns.

    If you are signed in here with the one before, you are with the new one.

    Examples:

    * `keytoll access-token reset alice`, as an operator

    * `keytoll access-token reset`, for yourself
    """
    with connected(server, run_dir) as client:
        name = _name(client, user)
        token = client.call("POST", f"{_path(name)}/reset")
    if as_json:
        print_json(token)
    else:
        typer.echo(f"The access token of users/{name}, which replaces any before:")
        print_secret(token)
    _follow(client, token["secret"])  # last: whatever happens to the file, the token was shown


@app.command()
def revoke(
    user: User = None, *, yes: Yes = False, as_json: Json = False, server: Server = None, run_dir: RunDir = None
) -> None:
    """Revoke a person's access token: it is refused when the command returns. The person's keys go on.

    Example: `keytoll access-token revoke alice`
    """
    with connected(server, run_dir) as client:
        name = _name(client, user)
        if not yes:
            typer.echo("The person is signed out everywhere, and needs another token to sign in.", err=True)
            typer.confirm(f"Revoke the access token of users/{name}?", abort=True, err=True)
        client.call("DELETE", _path(name))
    if as_json:
        print_json({"owner": f"users/{name}", "revoked": True})
    else:
        typer.echo(f"Revoked the access token of users/{name}.")
    _follow(client, None)


def _name(client: Client, user: str | None) -> str:
    return split_owner(client.owner(None))[1] if user is None else user_name(user, field="user")


def _path(name: str) -> str:
    return f"/users/{name}/access-token"


def _follow(client: Client, secret: str | None) -> None:
    """Sign in here with the new token, or out, if the old one was what this command used.

    Away from the operator's socket everybody's token is one's own.
    """
    if not isinstance(client.place, Remote):
        return
    file = config_file(os.environ)
    kept = read_signin(file)
    if kept is None or kept.access_token != client.place.token:
        typer.echo(f"{TOKEN} still holds the one before.", err=True)
    elif secret is None:
        remove_signin(file)
        typer.echo("You are signed out here.", err=True)
    else:
        write_signin(file, replace(kept, access_token=secret))
        typer.echo("You stay signed in here, with the new one.", err=True)
