"""`keytoll audit`: who changed what."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keytoll.cli.client import connected
from keytoll.cli.groups import group
from keytoll.cli.options import SHOWN, Json, Limit, RunDir, Server, Since, Until
from keytoll.cli.output import print_json, print_table, when
from keytoll.cli.times import end, start
from keytoll.core.owners import check_owner

app = group("Who changed what: keys, people, organizations, members and access tokens.")

_OWNER = "Only what was done to users/… or organizations/…, or to what is theirs."


@app.callback()
def audit() -> None:
    """Group the commands, though there is only one so far."""


@app.command("list")
def list_(
    *,
    owner: Annotated[str | None, typer.Option("--owner", help=_OWNER)] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", help="Only what was done by users/…, or by an `operator`.")
    ] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only such as `key.create` or `member.put`.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """List changes, newest first: your own and those of organizations that you manage; for an operator, all.

    Examples:

    * `keytoll audit list --owner organizations/acme --since 7d`

    * `keytoll audit list --actor operator --action key.delete --json`
    """
    named = None if owner is None else check_owner(owner)
    with connected(server, run_dir) as client:
        about = client.about
        span = {"since": start(since, about), "until": end(until, about)}
        query = {"owner": named, "actor": actor, "action": action, **span}
        most = limit if limit is not None else 0 if as_json else SHOWN
        found = list(client.items("/audit-events", query, limit=most))
    if as_json:
        print_json(found)
        return
    _print(found, about)
    if limit is None and len(found) == SHOWN:
        typer.echo(f"Only the newest {SHOWN} are shown; --limit 0 shows all.", err=True)


def _print(found: list[dict[str, Any]], about: Mapping[str, str]) -> None:
    if not found:
        typer.echo("No changes.")
        return
    columns = ["At", "Actor", "Action", "Owner", "Subject", "Source", "Change"]
    print_table(columns, [_row(event, about) for event in found])


def _row(event: Mapping[str, Any], about: Mapping[str, str]) -> list[str]:
    return [
        when(event["at"], about),
        *(event[field] for field in ("actor", "action", "owner")),
        event["subject_name"] or event["subject"],
        event["source"],
        _change(event["before"] or {}, event["after"] or {}),
    ]


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return what is different where there is a before and an after. Of a new member that is the role; else the subject's
    name tells what was made or deleted."""
    if not before:
        return f"role: {after['role']}" if "role" in after else ""
    changed = [name for name in after if before.get(name) != after[name]]
    return ", ".join(f"{name}: {_shown(before.get(name))} → {_shown(after[name])}" for name in changed)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(_shown(part) for part in value.values() if part is not None)
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return value if isinstance(value, str) else json.dumps(value)
