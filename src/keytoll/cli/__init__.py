"""The command line. Commands ask a Keytoll: the one that runs here, over its operator's socket, or one at an address,
with an access token. `serve` is that Keytoll.

What is slow to import is imported by the commands that need it, so that `keytoll --help` answers at once.
"""

from collections.abc import Sequence

import typer

from keytoll.cli import (
    access_token,
    audit,
    catalog,
    charges,
    envoy,
    identity,
    keys,
    organizations,
    serve,
    store,
    unsettled,
    users,
)
from keytoll.cli.failure import Failure
from keytoll.cli.groups import group
from keytoll.cli.options import Json
from keytoll.cli.usage import usage
from keytoll.core.errors import InvalidValue

_HELP = """Keys, quotas and billing of an LLM gateway, beside Envoy.

Commands ask the Keytoll that runs here, with an operator's rights, or one at an address, as the person who is signed in
there. Options that say which (`--server`, `--run-dir`) and `--json` may stand before a command or behind it.

Examples:

* `keytoll keys create users/alice --name production --monthly 100 --expires 30d`, on the spot

* `keytoll login --server https://gateway.example.com`, then `keytoll keys list` and `keytoll usage`
"""
_SPENDING, _OWNERS, _SELF, _RUNNING = "Keys and spending", "Owners", "Yourself", "Running it"

# Tracebacks as Typer paints them show the values of variables, secrets among them.
app = group(_HELP, rich_markup_mode="markdown", pretty_exceptions_enable=False)
app.add_typer(keys.app, name="keys", rich_help_panel=_SPENDING)
app.command("usage", rich_help_panel=_SPENDING)(usage)
app.add_typer(charges.app, name="charges", rich_help_panel=_SPENDING)
app.add_typer(users.app, name="users", rich_help_panel=_OWNERS)
app.add_typer(organizations.app, name="organizations", rich_help_panel=_OWNERS)
app.add_typer(access_token.app, name="access-token", rich_help_panel=_OWNERS)
app.add_typer(audit.app, name="audit", rich_help_panel=_OWNERS)
app.command("me", rich_help_panel=_SELF)(identity.me)
app.command("login", rich_help_panel=_SELF)(identity.login)
app.command("logout", rich_help_panel=_SELF)(identity.logout)
app.command("serve", rich_help_panel=_RUNNING)(serve.serve)
app.add_typer(envoy.app, name="envoy", rich_help_panel=_RUNNING)
app.add_typer(catalog.app, name="catalog", rich_help_panel=_RUNNING)
app.add_typer(store.app, name="store", rich_help_panel=_RUNNING)
app.add_typer(unsettled.app, name="unsettled", rich_help_panel=_RUNNING)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 if all went well, 1 with one line on stderr if not, 2 for a wrong usage."""
    try:
        app(args=arguments, prog_name="keytoll")
    except (Failure, InvalidValue) as error:
        typer.echo(f"keytoll: {error}", err=True)
        raise SystemExit(1) from None


@app.command(rich_help_panel=_RUNNING)
def version(*, as_json: Json = False) -> None:
    """Print Keytoll's version."""
    from keytoll import __version__
    from keytoll.cli.output import print_json

    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)
