"""`keytoll unsettled`: requests whose log entry never came."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keytoll.cli.client import connected
from keytoll.cli.groups import group
from keytoll.cli.options import Json, RunDir, Server
from keytoll.cli.output import optional_amount, print_json, print_table, when

app = group("Requests that were admitted and whose log entry never came; for operators.")

_COLUMNS = ("ID", "Admitted", "Owner", "Key", "Model", "Held", "Noted")


@app.callback()
def unsettled() -> None:
    """Group the commands, though there is only one so far."""


@app.command("list")
def list_(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those too whose entry came after all.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 for all.")] = 100,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """List the requests whose log entry never came, newest first: they were not charged.

    What each held is the most that it can have cost. If an entry comes after all, a correction charges it, and the
    request is listed with `--all` only.

    Example: `keytoll unsettled list --all --limit 0 --json`
    """
    with connected(server, run_dir) as client:
        about = client.about
        query = {"all": "true" if everything else None}
        found = list(client.items("/unsettled", query, limit=limit))
    if as_json:
        print_json(found)
    else:
        _print(found, about, with_corrections=everything)


def _print(found: list[dict[str, Any]], about: Mapping[str, str], *, with_corrections: bool) -> None:
    if not found:
        typer.echo("Nothing is unsettled." if not with_corrections else "Nothing was ever unsettled.")
        return
    columns = [*_COLUMNS, *(["Corrected by"] if with_corrections else [])]
    rows = [_row(row, about, with_correction=with_corrections) for row in found]
    print_table(columns, rows, right=frozenset(["Held"]))


def _row(row: Mapping[str, Any], about: Mapping[str, str], *, with_correction: bool) -> list[str]:
    return [
        row["id"],
        when(row["admitted_at"], about),
        *(row[field] for field in ("owner", "key_id", "model")),
        optional_amount(row["hold"], about, otherwise="unbounded"),
        when(row["noted_at"], about),
        *([row["corrected_by"] or "no"] if with_correction else []),
    ]
