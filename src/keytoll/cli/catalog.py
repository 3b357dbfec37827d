"""`keytoll catalog`: look at a catalog before it is used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keytoll.cli.options import Json
from keytoll.cli.output import print_json

if TYPE_CHECKING:
    from keytoll.catalog import Catalog

app = typer.Typer(help="The catalog: models, prices and backends.", no_args_is_help=True)


@app.callback()
def catalog() -> None:
    """Group the commands, though there is only one so far."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The catalog, such as keytoll.yaml.")],
    *,
    as_json: Json = False,
) -> None:
    """Check a catalog, and tell every mistake with its line. No Keytoll needs to run.

    Example: `keytoll catalog check keytoll.yaml`
    """
    from keytoll.catalog import CatalogError, load_catalog

    try:
        found = load_catalog(file)
    except CatalogError as error:
        _print_problems(error.problems, as_json=as_json)
        raise typer.Exit(1) from None
    _print_models(file, found, as_json=as_json)


def _print_problems(problems: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"ok": False, "models": [], "problems": problems})
        return
    for problem in problems:
        typer.echo(problem, err=True)


def _print_models(file: Path, found: "Catalog", *, as_json: bool) -> None:
    models = list(found.models)
    if as_json:
        print_json({"ok": True, "models": models, "problems": []})
    else:
        typer.echo(f"{file}: OK, {found.currency}, {found.zone.key}, models: {', '.join(models)}")
