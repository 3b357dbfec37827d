"""`keytoll charges`: look into the ledger."""

import time
from collections.abc import Mapping
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from keytoll.cli.client import OperatorClient
from keytoll.cli.options import RUN_DIR, Json, RunDir
from keytoll.cli.output import amount, print_json, print_table, when
from keytoll.core.expiry import format_timestamp, parse_since
from keytoll.core.keys import check_owner

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
_ALWAYS = ("Input", "Cached", "Output")


@app.callback()
def charges() -> None:
    """Group the commands, though there is only one so far."""


@app.command("list")
def list_(
    *,
    owner: Annotated[
        str | None, typer.Option("--owner", help="Only those charged to users/… or organizations/….")
    ] = None,
    key_id: Annotated[str | None, typer.Option("--key", metavar="ID", help="Only this key's.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE|DURATION", help=_SINCE)] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 for all.")] = 100,
    as_json: Json = False,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """List charges, newest first.

    Examples:

    * `keytoll charges list --owner users/alice --since 7d`

    * `keytoll charges list --key key_0198… --since 2026-12-01 --limit 0 --json`
    """
    query = {"owner": None if owner is None else check_owner(owner), "key_id": key_id}
    with OperatorClient(run_dir) as client:
        about = client.call("GET", "/about")
        found = list(client.items("/charges", query | {"since": _since(since, about)}, limit=limit))
    if as_json:
        print_json(found)
    else:
        _print(found, about)


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
    columns = ["Admitted", "Owner", "Key", "Model", "Endpoint", *tokens, "Amount", "Measured", "Status"]
    print_table(columns, [_row(c, tokens, about) for c in found], right=frozenset([*tokens, "Amount", "Status"]))


def _row(charge: Mapping[str, Any], tokens: list[str], about: Mapping[str, str]) -> list[str]:
    return [
        when(charge["admitted_at"], about),
        *(charge[field] for field in ("owner", "key_id", "model", "endpoint")),
        *(str(charge[_TOKENS[column]]) for column in tokens),
        amount(charge["amount"], about),
        charge["measured"],
        str(charge["status"]),
    ]
