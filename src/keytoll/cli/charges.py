"""`keytoll charges`: look into the ledger."""

import time
from collections.abc import Mapping
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from keytoll.cli.client import OperatorClient, charge_path
from keytoll.cli.options import RUN_DIR, Json, RunDir
from keytoll.cli.output import amount, exactly, optional_amount, print_json, print_table, when
from keytoll.core.expiry import format_timestamp, parse_since
from keytoll.core.owners import check_owner

app = typer.Typer(help="The ledger: what was charged, and to whom.", no_args_is_help=True)

_SINCE = (
    "Only requests admitted since then: a duration back from now (`30m`, `12h`, `7d`, `1mo`), a date (from its start, in"
    " the billing time zone) or a time (`2030-12-31T18:00`)."
)
_TOKENS = {
    "Input": "input_tokens",
    "Cached": "cached_input_tokens",
    "Cache write": "cache_write_tokens",
    "Output": "output_tokens",
    "Audio in": "audio_input_tokens",
    "Audio out": "audio_output_tokens",
}
_ITEMS = {field.removesuffix("_tokens"): column for column, field in _TOKENS.items()} | {"request": "Request"}
_MEASURED = {
    "reported": "as the backend reported",
    "estimated": "estimated, as the backend did not report all",
    "none": "not at all",
}
_SHOWN = 100
_ALWAYS = ("Input", "Cached", "Output")


@app.command("list")
def list_(
    *,
    owner: Annotated[
        str | None, typer.Option("--owner", help="Only those charged to users/… or organizations/….")
    ] = None,
    key_id: Annotated[str | None, typer.Option("--key", metavar="ID", help="Only this key's.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE|DURATION", help=_SINCE)] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=0, help="At most so many; 0 for all. Unless given, 100 in a table, all in JSON."),
    ] = None,
    as_json: Json = False,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """List charges, newest first.

    Examples:

    * `keytoll charges list --owner users/alice --since 7d`

    * `keytoll charges list --key key_0198… --since 2026-12-01 --json`
    """
    query = {"owner": None if owner is None else check_owner(owner), "key_id": key_id}
    with OperatorClient(run_dir) as client:
        about = client.call("GET", "/about")
        most = limit if limit is not None else 0 if as_json else _SHOWN
        found = list(client.items("/charges", query | {"since": _since(since, about)}, limit=most))
    if as_json:
        print_json(found)
        return
    _print(found, about)
    if limit is None and len(found) == _SHOWN:
        typer.echo(f"Only the newest {_SHOWN} are shown; --limit 0 shows all.", err=True)


@app.command()
def explain(
    charge_id: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a charge, a correction or an unsettled row.")
    ],
    *,
    as_json: Json = False,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """Explain a charge: what was used, at which prices, and the sum line by line.

    Example: `keytoll charges explain chg_0198…`
    """
    with OperatorClient(run_dir) as client:
        about = client.call("GET", "/about")
        charge = client.call("GET", charge_path(charge_id))
    if as_json:
        print_json(charge)
        return
    for name, fact in _facts(charge, about).items():
        typer.echo(f"{name + ':':<12}{fact}")
    typer.echo("")
    _print_sum(charge, about)


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


def _since(text: str | None, about: Mapping[str, str]) -> str | None:
    if text is None:
        return None
    zone = ZoneInfo(about["billing_time_zone"])
    return format_timestamp(parse_since(text, now_us=time.time_ns() // 1000, zone=zone))


def _print(found: list[dict[str, Any]], about: Mapping[str, str]) -> None:
    if not found:
        typer.echo("No charges.")
        return
    tokens = [column for column, field in _TOKENS.items() if column in _ALWAYS or any(c[field] for c in found)]
    columns = ["ID", "Admitted", "Owner", "Key", "Model", "Endpoint", *tokens, "Amount", "Measured", "Status"]
    print_table(columns, [_row(c, tokens, about) for c in found], right=frozenset([*tokens, "Amount", "Status"]))


def _row(charge: Mapping[str, Any], tokens: list[str], about: Mapping[str, str]) -> list[str]:
    return [
        charge["id"],
        when(charge["admitted_at"], about),
        *(charge[field] for field in ("owner", "key_id", "model", "endpoint")),
        *(str(charge[_TOKENS[column]]) for column in tokens),
        amount(charge["amount"], about),
        charge["measured"],
        str(charge["status"]),
    ]
