"""`keytoll usage`: what was used, summed up by day, key and model."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from keytoll.cli.client import connected
from keytoll.cli.options import Json, Owner, RunDir, Server
from keytoll.cli.output import amount, print_json, print_table, token_columns
from keytoll.cli.times import first_day, last_day

_BY = "What to sum up by; may be given several times. By day unless given; `owner` is for operators."
_SINCE = "The first day: a date, or a duration back from now such as `7d`; by default the first of this month."
_UNTIL = "The last day: a date, or a duration back from now; by default today."
_COLUMNS = {"owner": ["Owner"], "day": ["Day"], "key": ["Key", "Name"], "model": ["Model"]}
_FIELDS = {"owner": ["owner"], "day": ["day"], "key": ["key_id", "key_name"], "model": ["model"]}


class Grouping(StrEnum):
    """What usage may be summed up by."""

    OWNER = "owner"
    DAY = "day"
    KEY = "key"
    MODEL = "model"


def usage(
    *,
    owner: Owner = None,
    by: Annotated[list[Grouping] | None, typer.Option("--by", help=_BY)] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE|DURATION", help=_SINCE)] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE|DURATION", help=_UNTIL)] = None,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Tell what was used, and what it cost. Days are those of the billing time zone, by when a request was admitted.

    Examples:

    * `keytoll usage --since 7d`

    * `keytoll usage --owner organizations/acme --by key --by model --since 2026-11-01 --until 2026-11-30`
    """
    grouping = [part for part in Grouping if part in (by or [Grouping.DAY])]
    with connected(server, run_dir) as client:
        about = client.about
        query = {
            "since": first_day(since, about),
            "until": last_day(until, about),
            "group_by": ",".join(grouping),
        }
        found = client.call("GET", client.path(owner, "/usage"), query=query)
    if as_json:
        print_json(found)
    else:
        _print(found, grouping)


def _print(found: Mapping[str, Any], grouping: Sequence[Grouping]) -> None:
    typer.echo(f"From {found['since']} to {found['until']}, in {found['billing_time_zone']}:")
    if not found["data"]:
        typer.echo("Nothing was used.")
        return
    typer.echo("")
    tokens = token_columns(found["data"])
    groups = [column for name in grouping for column in _COLUMNS[name]]
    fields = [field for name in grouping for field in _FIELDS[name]]
    rows = [[*(str(row[field] or "-") for field in fields), *_sums(row, tokens, found)] for row in found["data"]]
    rows.append(["Total", *("" for _ in fields[1:]), *_sums(found["total"], tokens, found)])
    print_table([*groups, "Requests", *tokens, "Amount"], rows, right=frozenset(["Requests", *tokens, "Amount"]))


def _sums(row: Mapping[str, Any], tokens: Mapping[str, str], about: Mapping[str, str]) -> list[str]:
    return [str(row["requests"]), *(str(row[field]) for field in tokens.values()), amount(row["amount"], about)]
