"""The command line. Commands talk to the running Keytoll, over its operator's socket; `serve` is that Keytoll.

What is slow to import is imported by the commands that need it, so that `keytoll --help` answers at once.
"""

from collections.abc import Sequence

import typer

from keytoll.cli import catalog, charges, keys, serve, unsettled
from keytoll.cli.client import Failure
from keytoll.cli.options import Json
from keytoll.core.errors import InvalidValue

# Tracebacks as Typer paints them show the values of variables, secrets among them.
app = typer.Typer(
    help="Keys, quotas and billing of an LLM gateway, beside Envoy.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys")
app.add_typer(charges.app, name="charges")
app.add_typer(unsettled.app, name="unsettled")
app.add_typer(catalog.app, name="catalog")
app.command("serve")(serve.serve)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 if all went well, 1 with one line on stderr if not, 2 for a wrong usage."""
    try:
        app(args=arguments, prog_name="keytoll")
    except (Failure, InvalidValue) as error:
        typer.echo(f"keytoll: {error}", err=True)
        raise SystemExit(1) from None


@app.command()
def version(*, as_json: Json = False) -> None:
    """Print Keytoll's version."""
    from keytoll import __version__
    from keytoll.cli.output import print_json

    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)
