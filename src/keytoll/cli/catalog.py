"""`keytoll catalog`: look at a catalog before it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keytoll.cli.groups import group
from keytoll.cli.options import Json
from keytoll.cli.output import amount, exactly, print_json, print_table
from keytoll.core.expiry import format_timestamp
from keytoll.core.money import format_amount

if TYPE_CHECKING:
    from keytoll.catalog import Catalog
    from keytoll.core.offer import PriceVersion

_PRICES = {
    "Input": "input",
    "Cached": "cached_input",
    "Cache write": "cache_write",
    "Output": "output",
    "Audio in": "audio_input",
    "Audio out": "audio_output",
    "Request": "request",
}

app = group("The catalog: models, prices and backends.")


@app.callback()
def catalog() -> None:
    """Group the commands, though there is only one so far."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The catalog, such as keytoll.yaml.")],
    *,
    as_json: Json = False,
) -> None:
    """Check a catalog, and tell every mistake with its line, or which prices apply from when. No Keytoll needs to run.

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
        print_json({"ok": False, "models": [], "prices": {}, "problems": problems})
        return
    for problem in problems:
        typer.echo(problem, err=True)


def _print_models(file: Path, found: "Catalog", *, as_json: bool) -> None:
    models = list(found.models)
    prices = {name: [_version(version) for version in model.prices] for name, model in found.models.items()}
    if as_json:
        print_json({"ok": True, "models": models, "prices": prices, "problems": []})
        return
    typer.echo(f"{file}: OK, {found.currency}, {found.zone.key}, models: {', '.join(models)}\n")
    about = {"currency": found.currency, "billing_time_zone": found.zone.key}
    rows = [_row(name, version, about) for name, versions in prices.items() for version in versions]
    print_table(["Model", "From", *_PRICES, "Price id"], rows, right=frozenset(_PRICES))
    typer.echo("\nPrices are per million tokens, and per request.")


def _version(version: "PriceVersion") -> dict[str, str | None]:
    """Return a price version as JSON. Its `from` is null for what applies from ever on."""
    prices = {name: format_amount(getattr(version.prices, name)) for name in _PRICES.values()}
    return {"from": format_timestamp(version.from_us) if version.from_us else None, "id": version.id, **prices}


def _row(model: str, version: Mapping[str, str | None], about: Mapping[str, str]) -> list[str]:
    since = version["from"]
    prices = [amount(version[name] or "", about) for name in _PRICES.values()]
    return [model, "ever on" if since is None else exactly(since, about), *prices, version["id"] or ""]
