"""`keytoll charges`: look into the ledger."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keytoll.cli.client import Client, charge_path, connected
from keytoll.cli.failure import Failure
from keytoll.cli.groups import group
from keytoll.cli.options import SHOWN, Json, KeyId, Limit, Model, Owner, RunDir, Server, Since, Until
from keytoll.cli.output import (
    amount,
    exactly,
    optional_amount,
    print_json,
    print_table,
    token_columns,
    when,
)
from keytoll.cli.times import end, start

app = group("The ledger: what was charged, and to whom.")

_ITEMS = {
    "input": "Input",
    "cached_input": "Cached",
    "cache_write": "Cache write",
    "output": "Output",
    "audio_input": "Audio in",
    "audio_output": "Audio out",
    "request": "Request",
}
_MEASURED = {
    "reported": "as the backend reported",
    "estimated": "estimated, as the backend did not report all",
    "none": "not at all",
}
_BEFORE = "Those admitted before this day of the billing time zone, such as 2026-01-01."
_FILE = "Where to write it, at once when all of it has come; by default to standard output."


@app.command("list")
def list_(
    *,
    owner: Owner = None,
    key_id: KeyId = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """List charges, newest first. What counts for `--since` and `--until` is when a request was admitted.

    Examples:

    * `keytoll charges list --owner users/alice --since 7d`

    * `keytoll charges list --key key_0198… --since 2026-12-01 --json`
    """
    with connected(server, run_dir) as client:
        about = client.about
        query = _query(client, key_id=key_id, model=model, since=since, until=until)
        most = limit if limit is not None else 0 if as_json else SHOWN
        found = list(client.items(client.path(owner, "/charges"), query, limit=most))
    if as_json:
        print_json(found)
        return
    _print(found, about)
    if limit is None and len(found) == SHOWN:
        typer.echo(f"Only the newest {SHOWN} are shown; --limit 0 shows all.", err=True)


@app.command()
def export(
    *,
    owner: Owner = None,
    key_id: KeyId = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help=_FILE)] = None,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Export charges as CSV, newest first, all that there are.

    Examples:

    * `keytoll charges export --owner organizations/acme --since 2026-11-01 --until 2026-11-30 -o november.csv`

    * `keytoll charges export --since 1mo > charges.csv`
    """
    with connected(server, run_dir) as client:
        query = _query(client, key_id=key_id, model=model, since=since, until=until)
        pages = client.csv(client.path(owner, "/charges"), query)
        if output is None:
            for page in pages:
                typer.echo(page, nl=False)
        else:
            _write(output, pages)


@app.command()
def explain(
    charge_id: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a charge, a correction or an unsettled row.")
    ],
    *,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Explain a charge: what was used, at which prices, and the sum line by line.

    Example: `keytoll charges explain chg_0198…`
    """
    with connected(server, run_dir) as client:
        about = client.about
        charge = client.call("GET", charge_path(charge_id))
    if as_json:
        print_json(charge)
        return
    for name, fact in _facts(charge, about).items():
        typer.echo(f"{name + ':':<12}{fact}")
    typer.echo("")
    _print_sum(charge, about)


@app.command()
def archive(
    *,
    before: Annotated[str, typer.Option("--before", metavar="DATE", help=_BEFORE)],
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Move old charges out of the ledger, into an archive beside the store; for operators.

    What was spent stays as it is, totals, quotas and usage alike, and a late repeat of a log entry has no effect as
    before. The archive of an SQLite store is a database of its own, `archive-DATE.db`, that of a PostgreSQL one a table,
    `archive_DATE`. Keytoll reads it no more.

    Example: `keytoll charges archive --before 2026-01-01`
    """
    rows, complete = 0, False
    with connected(server, run_dir) as client:
        while not complete:
            archived = client.call("POST", "/charge-archives", {"before": before})
            rows, complete = rows + archived["rows"], archived["complete"]
    typer.echo(f"{rows} charges admitted before {before} were moved to the archive {before}, beside the store.")


def _facts(charge: Mapping[str, Any], about: Mapping[str, str]) -> dict[str, str]:
    corrects = f", corrects {charge['refers_to']}" if charge["refers_to"] else ""
    tries = "1 attempt" if charge["attempts"] == 1 else f"{charge['attempts']} attempts"
    since = "from ever on" if charge["price_from"] is None else f"from {exactly(charge['price_from'], about)} on"
    estimates = [f"{_ITEMS[e['item']]}: {_estimate(e)}" for e in charge["estimates"]]
    return {
        "ID": charge["id"],
        "Kind": charge["kind"] + corrects,
        "Owner": f"{charge['owner']}, key {charge['key_id']}",
        "Request": f"{charge['endpoint']}, {charge['model']}, status {charge['status']}, {tries}",
        "Admitted": f"{exactly(charge['admitted_at'], about)}, counted in {charge['month']}",
        "Settled": exactly(charge["settled_at"], about),
        "Prices": f"{charge['price_id']}, {since}",
        "Held": optional_amount(charge["hold"], about, otherwise="all that was left, as its cost had no bound"),
        "Measured": "; ".join([_MEASURED[charge["measured"]], *estimates]),
    }


def _estimate(estimate: Mapping[str, Any]) -> str:
    source = estimate["source"].replace("_", " ")
    return f"{estimate['count']} {source} at {estimate['rate']} tokens each, rounded up, are {estimate['tokens']}"


def _print_sum(charge: Mapping[str, Any], about: Mapping[str, str]) -> None:
    rows = [_line(line, about) for line in charge["lines"] if line["count"] and _counts(line)]
    rows += [["Sum", "", "", amount(charge["sum"], about)]]
    rows += [["Rounded", "", "half to even", amount(charge["rounded"], about)]]
    rows += [["Cut", "", "to what was held", amount(charge["hold"], about)]] if charge["capped"] else []
    rows += [["Charged", "", "", amount(charge["amount"], about)]]
    print_table(["Item", "Count", "Price", "Amount"], rows, right=frozenset(["Count", "Price", "Amount"]))
    for remark in _remarks(charge, about):
        typer.echo(f"\n{remark}")


def _counts(line: Mapping[str, Any]) -> bool:
    """Return whether a line is worth a row: tokens always are, the request only where it has a price."""
    return bool(line["item"] != "request" or line["product"] != "0.00")


def _line(line: Mapping[str, Any], about: Mapping[str, str]) -> list[str]:
    per = "each" if line["per"] == 1 else "a million"
    price = f"{amount(line['price'], about)} {per}"
    return [_ITEMS[line["item"]], str(line["count"]), price, amount(line["product"], about)]


def _remarks(charge: Mapping[str, Any], about: Mapping[str, str]) -> list[str]:
    remarks = []
    if charge["kind"] == "unsettled":
        remarks.append("The log entry of this request never came. If it comes after all, a correction will charge it.")
    elif not charge["served"]:
        remarks.append("Nothing is charged: the request reached no backend, or was refused by it.")
    if charge["beyond_hold"] != "0.00":
        remarks.append(f"The backend reported {amount(charge['beyond_hold'], about)} more than was held.")
    if not charge["adds_up"]:
        remarks.append("THE AMOUNT IN THE LEDGER IS NOT WHAT THIS ADDS UP TO.")
    return remarks


def _query(
    client: Client, *, key_id: str | None, model: str | None, since: str | None, until: str | None
) -> dict[str, str | None]:
    span = {"since": start(since, client.about), "until": end(until, client.about)}
    return {"key_id": key_id, "model": model, **span}


def _write(file: Path, pages: Iterable[str]) -> None:
    """Half a file must not be taken for the whole."""
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as opened:
            opened.writelines(pages)
        part.replace(file)
    except OSError as error:
        raise Failure(f"can't write {file}: {error.strerror}") from error


def _print(found: list[dict[str, Any]], about: Mapping[str, str]) -> None:
    if not found:
        typer.echo("No charges.")
        return
    tokens = token_columns(found)
    columns = ["ID", "Admitted", "Owner", "Key", "Model", "Endpoint", *tokens, "Amount", "Measured", "Status"]
    print_table(columns, [_row(c, tokens, about) for c in found], right=frozenset([*tokens, "Amount", "Status"]))


def _row(charge: Mapping[str, Any], tokens: Mapping[str, str], about: Mapping[str, str]) -> list[str]:
    return [
        charge["id"],
        when(charge["admitted_at"], about),
        *(charge[field] for field in ("owner", "key_id", "model", "endpoint")),
        *(str(charge[field]) for field in tokens.values()),
        amount(charge["amount"], about),
        charge["measured"],
        str(charge["status"]),
    ]
