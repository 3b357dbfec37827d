"""`keytoll keys`: create, list, edit and delete keys."""

import time
from collections.abc import Mapping
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from keytoll.cli.client import OperatorClient, key_path
from keytoll.cli.options import EXPIRES_HELP, RUN_DIR, Json, RunDir
from keytoll.cli.output import exactly, expiration, print_json, print_table, quota, when
from keytoll.core.expiry import format_timestamp, parse_expiry
from keytoll.core.keys import check_owner

app = typer.Typer(help="API keys: create, list, edit and delete them.", no_args_is_help=True)

_OWNER = "Who owns it and is charged: users/NAME or organizations/NAME."
_MONTHLY = "At most this much in each calendar month, such as 100 or 0.5."
_TOTAL = "At most this much in the key's whole life."

Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keytoll keys list` shows it.")]
Name = Annotated[str | None, typer.Option("--name", help="Another name.")]
Monthly = Annotated[str | None, typer.Option("--monthly", metavar="AMOUNT", help=_MONTHLY)]
Total = Annotated[str | None, typer.Option("--total", metavar="AMOUNT", help=_TOTAL)]
Expires = Annotated[str | None, typer.Option("--expires", metavar="DATE|DURATION", help=EXPIRES_HELP)]


@app.command()
def create(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help=_OWNER)],
    *,
    name: Annotated[str, typer.Option("--name", help="What the key is for, unique among the owner's keys.")],
    monthly: Monthly = None,
    total: Total = None,
    expires: Expires = None,
    as_json: Json = False,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """Create a key and print it, this once.

    Without a quota it is unlimited, without an expiry it never expires.

    Examples:

    * `keytoll keys create users/alice --name production --monthly 100 --expires 30d`

    * `keytoll keys create organizations/acme --name batch --total 5000 --expires 2030-12-31`
    """
    limits = _quota(monthly=monthly, total=total)
    with OperatorClient(run_dir) as client:
        body = {"name": name, **limits, **_expiry(client, expires)}
        key = client.call("POST", f"/{check_owner(owner)}/keys", body)
    if as_json:
        print_json(key)
    else:
        _print_created(key)


@app.command("list")
def list_(
    owner: Annotated[str | None, typer.Argument(metavar="[OWNER]", help="Only this owner's keys.")] = None,
    *,
    as_json: Json = False,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """List keys, of one owner or of all, with what is used of their quotas.

    What counts is this month under a monthly quota, else the key's whole life.

    Example: `keytoll keys list users/alice`
    """
    with OperatorClient(run_dir) as client:
        about = client.call("GET", "/about")
        keys = list(client.items("/keys" if owner is None else f"/{check_owner(owner)}/keys", {}))
    if as_json:
        print_json(keys)
    else:
        _print_keys(keys, about, with_owner=owner is None)


@app.command()
def edit(
    key_id: Id,
    *,
    name: Name = None,
    monthly: Monthly = None,
    total: Total = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="No limit any more.")] = False,
    expires: Expires = None,
    never: Annotated[bool, typer.Option("--never", help="No expiry any more.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; tell what would change, from when.")
    ] = False,
    as_json: Json = False,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """Change a key's name, quota or expiry. It is in force when the command returns.

    Examples:

    * `keytoll keys edit key_0198… --monthly 250 --never`

    * `keytoll keys edit key_0198… --total 10 --dry-run`
    """
    if never and expires is not None:
        raise typer.BadParameter("Give only one of --expires and --never.")
    changes: dict[str, Any] = _quota(monthly=monthly, total=total, unlimited=unlimited)
    if name is not None:
        changes["name"] = name
    if never:
        changes["expires_at"] = None
    if not changes and expires is None:
        raise typer.BadParameter("Say what to change; see --help.")
    with OperatorClient(run_dir) as client:
        about = client.call("GET", "/about")
        query = {"dry_run": "true"} if dry_run else {}
        answer = client.call("PATCH", key_path(key_id), changes | _expiry(client, expires), query=query)
    if as_json:
        print_json(answer)
    elif dry_run:
        _print_preview(answer, about)
    else:
        _print_keys([answer], about, with_owner=True)


@app.command()
def delete(
    key_id: Id,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: Json = False,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """Delete a key. When the command returns, the key is refused; its charges stay.

    Requests that are already running finish and are charged.

    Example: `keytoll keys delete key_0198… --yes`
    """
    with OperatorClient(run_dir) as client:
        key = client.call("GET", key_path(key_id))
        if not yes:
            typer.echo(
                "Requests that are already running finish and are charged; any further one is refused.", err=True
            )
            typer.confirm(f"Delete the key {_described(key)}?", abort=True, err=True)
        client.call("DELETE", key_path(key_id))
    if as_json:
        print_json({"id": key["id"], "deleted": True})
    else:
        typer.echo(f"Deleted the key {_described(key)}.")


def _quota(*, monthly: str | None, total: str | None, unlimited: bool = False) -> dict[str, Any]:
    given: list[dict[str, str]] = []
    if monthly is not None:
        given.append({"kind": "monthly", "limit": monthly})
    if total is not None:
        given.append({"kind": "total", "limit": total})
    if unlimited:
        given.append({"kind": "unlimited"})
    if len(given) > 1:
        raise typer.BadParameter("Give only one of --monthly, --total and --unlimited.")
    return {"quota": given[0]} if given else {}


def _expiry(client: OperatorClient, expires: str | None) -> dict[str, str]:
    if expires is None:
        return {}
    zone = ZoneInfo(client.call("GET", "/about")["billing_time_zone"])
    at_us = parse_expiry(expires, now_us=time.time_ns() // 1000, zone=zone)
    return {"expires_at": format_timestamp(at_us)}


def _print_created(key: Mapping[str, Any]) -> None:
    typer.echo(f"Created the key {_described(key)}, id {key['id']}:\n\n    {key['secret']}\n")
    typer.echo("Store it safely now: it is not kept here and will not be shown again.")


def _print_preview(preview: Mapping[str, Any], about: Mapping[str, str]) -> None:
    before, after = preview["before"], preview["after"]
    typer.echo(f"A dry run of an edit at {exactly(preview['from'], about)}; nothing was changed.\n")
    columns = ["", "Name", "Usage Quota", "Expiration"]
    print_table(columns, [[which, *_editable(key, about)] for which, key in (("before", before), ("after", after))])
    typer.echo("")
    for effect in preview["effects"]:
        typer.echo(f"* {effect}")


def _editable(key: Mapping[str, Any], about: Mapping[str, str]) -> list[str]:
    return [key["name"], quota(key, about), expiration(key["expires_at"], about)]


def _described(key: Mapping[str, Any]) -> str:
    return f'"{key["name"]}" ({key["masked_key"]}) of {key["owner"]}'


def _print_keys(keys: list[dict[str, Any]], about: Mapping[str, str], *, with_owner: bool) -> None:
    if not keys:
        typer.echo("No keys.")
        return
    columns = ["ID", *(["Owner"] if with_owner else []), "Name", "API Key", "Usage Quota", "Expiration", "Created At"]
    print_table(columns, [_row(key, about, with_owner=with_owner) for key in keys])


def _row(key: Mapping[str, Any], about: Mapping[str, str], *, with_owner: bool) -> list[str]:
    return [
        key["id"],
        *([key["owner"]] if with_owner else []),
        key["name"],
        key["masked_key"],
        quota(key, about),
        expiration(key["expires_at"], about),
        when(key["created_at"], about),
    ]
