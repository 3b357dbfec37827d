"""`keytoll login`, `logout` and `me`: who uses this command line, and of which Keytoll."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import typer

from keytoll.cli.client import Client, connected
from keytoll.cli.failure import Failure
from keytoll.cli.options import Json, RunDir, Server
from keytoll.cli.output import print_facts, print_json
from keytoll.cli.place import SERVER, TOKEN, Remote, named_server
from keytoll.cli.signin import SignIn, check_token, config_file, remove_signin, write_signin
from keytoll.cli.users import shown_roles


def login(*, as_json: Json = False, server: Server = None) -> None:
    """Sign in: later commands ask that Keytoll, as you. The access token is typed in, or read from standard input.

    It is kept in keytoll/config.toml of your configuration folder, which nobody else may read.

    Examples:

    * `keytoll login --server https://gateway.example.com`

    * `keytoll login --server https://gateway.example.com < token.txt`
    """
    address = named_server(server=server, run_dir=None, environment=os.environ)
    if address is None:
        raise typer.BadParameter(f"Say where: --server URL, or {SERVER} in the environment.")
    token = check_token(_asked_for(), origin="what was given")
    with Client(Remote(address, token)) as client:
        me = client.me
    file = config_file(os.environ)
    write_signin(file, SignIn(address, token))
    if as_json:
        print_json({**me, "at": address})
    else:
        typer.echo(f"Signed in at {address} as {me['owner']}; kept in {file}.")
    if os.environ.get(TOKEN):
        typer.echo(f"As long as {TOKEN} is set, commands use that one.", err=True)


def logout(*, as_json: Json = False) -> None:
    """Sign out: forget where you were signed in, and the access token. The token itself still works elsewhere.

    Example: `keytoll logout`
    """
    removed = remove_signin(config_file(os.environ))
    if as_json:
        print_json({"signed_out": removed})
    else:
        typer.echo("Signed out." if removed else "You were not signed in.")


def me(*, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """Tell who you are to commands like this one, and which Keytoll they ask.

    Example: `keytoll me`
    """
    with connected(server, run_dir) as client:
        found, at = client.me, client.place.address
    if as_json:
        print_json({**found, "at": at})
    else:
        print_facts({"Who": found["owner"] or found["kind"], "At": at} | _person(found))


def _person(found: Mapping[str, Any]) -> dict[str, str]:
    if found["kind"] == "operator":
        return {}
    token = found["access_token"]
    masked = "-" if token is None else token["masked_token"]
    return {"Access Token": masked, "Organizations": shown_roles(found["organizations"])}


def _asked_for() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Access token (not shown)", hide_input=True, err=True))
    if line := sys.stdin.readline().strip():
        return line
    raise Failure("there is no access token on standard input")
