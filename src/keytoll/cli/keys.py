"""`keytoll keys`: create, list, show, edit, rotate and delete keys."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from keytoll.cli.client import Client, connected, key_path
from keytoll.cli.groups import group
from keytoll.cli.options import EXPIRES_HELP, Json, RunDir, Server, Yes
from keytoll.cli.output import (
    exactly,
    expiration,
    listed,
    optional_amount,
    optional_time,
    print_facts,
    print_json,
    print_secret,
    print_table,
    quota,
    status,
    when,
)
from keytoll.cli.times import expiry

app = group("API keys: create, list, show, edit, rotate and delete them.")

_OWNER = "Who owns it and is charged: users/NAME or organizations/NAME; by default yourself. An operator must name one."
_LISTED = "Only this owner's keys; by default your own, or for an operator all."
_SORT = "By `created_at`, `name`, `expires_at` or `last_used_at`; with `-` in front, the last or latest first."
_MONTHLY = "At most this much in each calendar month, such as 100 or 0.5."
_TOTAL = "At most this much in the key's whole life."

Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keytoll keys list` shows it.")]
Name = Annotated[str | None, typer.Option("--name", help="Another name.")]
Monthly = Annotated[str | None, typer.Option("--monthly", metavar="AMOUNT", help=_MONTHLY)]
Total = Annotated[str | None, typer.Option("--total", metavar="AMOUNT", help=_TOTAL)]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="MODEL", help="Only this model; may be given several times.")
]
Networks = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="CIDR", help="Only from this network or address; may be given several times."),
]
Status = Literal["active", "disabled", "expired", "spent"]
Kind = Literal["unlimited", "monthly", "total"]
Sort = Literal[
    "created_at", "name", "expires_at", "last_used_at", "-created_at", "-name", "-expires_at", "-last_used_at"
]
Expires = Annotated[str | None, typer.Option("--expires", metavar="DATE|DURATION", help=EXPIRES_HELP)]


@app.command()
def create(
    owner: Annotated[str | None, typer.Argument(metavar="OWNER", help=_OWNER)] = None,
    *,
    name: Annotated[str, typer.Option("--name", help="What the key is for, unique among the owner's keys.")],
    monthly: Monthly = None,
    total: Total = None,
    expires: Expires = None,
    model: Models = None,
    network: Networks = None,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Create a key and print it, this once.

    Without a quota it is unlimited, without an expiry it never expires, and it may use every model from everywhere
    unless models or networks are named.

    Examples:

    * `keytoll keys create users/alice --name production --monthly 100 --expires 30d`

    * `keytoll keys create organizations/acme --name batch --total 5000 --expires 2030-12-31`

    * `keytoll keys create --name laptop --model bge-m3`, for yourself where you are signed in
    """
    limits = _quota(monthly=monthly, total=total)
    with connected(server, run_dir) as client:
        body = {"name": name, **limits, **_expiry(client, expires), **_allowed(model, network)}
        key = client.call("POST", f"/{client.owner(owner)}/keys", body)
    if as_json:
        print_json(key)
    else:
        _print_created(key)


@app.command("list")
def list_(
    owner: Annotated[str | None, typer.Argument(metavar="OWNER", help=_LISTED)] = None,
    *,
    search: Annotated[
        str | None, typer.Option("--search", "-q", metavar="TEXT", help="Only with this in the name.")
    ] = None,
    standing: Annotated[Status | None, typer.Option("--status", help="Only those that are so.")] = None,
    kind: Annotated[Kind | None, typer.Option("--quota", help="Only those with such a quota.")] = None,
    sort: Annotated[Sort | None, typer.Option("--sort", metavar="FIELD", help=_SORT)] = None,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """List keys with what is used of their quotas.

    What counts is this month under a monthly quota, else the key's whole life.

    Examples:

    * `keytoll keys list users/alice`

    * `keytoll keys list organizations/acme --search batch --status active --sort -last_used_at`
    """
    query = {"q": search, "status": standing, "quota": kind, "sort": sort}
    with connected(server, run_dir) as client:
        about = client.about
        path = client.path(owner, "/keys")
        keys = list(client.items(path, query))
    if as_json:
        print_json(keys)
    else:
        _print_keys(keys, about, with_owner=path == "/keys")


@app.command()
def show(key_id: Id, *, as_json: Json = False, server: Server = None, run_dir: RunDir = None) -> None:
    """Show all that is known of a key.

    Example: `keytoll keys show key_0198…`
    """
    with connected(server, run_dir) as client:
        about = client.about
        key = client.call("GET", key_path(key_id))
    if as_json:
        print_json(key)
    else:
        _print_key(key, about)


@app.command()
def rotate(
    key_id: Id,
    *,
    grace: Annotated[
        str | None,
        typer.Option("--grace", metavar="DURATION", help="How long the old secret works on; by default not at all."),
    ] = None,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Give a key another secret and print it, this once. Its id, quota and spending stay.

    A secret that an earlier rotation left working ends now.

    Example: `keytoll keys rotate key_0198… --grace 24h`
    """
    with connected(server, run_dir) as client:
        about = client.about
        body = {} if grace is None else {"old_valid_until": expiry(grace, about, field="grace")}
        key = client.call("POST", f"{key_path(key_id)}/rotate", body)
    if as_json:
        print_json(key)
    else:
        _print_rotated(key, about)


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
    model: Models = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Every model again.")] = False,
    network: Networks = None,
    any_network: Annotated[bool, typer.Option("--any-network", help="From everywhere again.")] = False,
    disable: Annotated[bool, typer.Option("--disable", help="Refuse the key until it is enabled.")] = False,
    enable: Annotated[bool, typer.Option("--enable", help="Take the key again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; tell what would change, from when.")
    ] = False,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Change a key's name, quota, expiry, or what it is allowed. It is in force when the command returns.

    Examples:

    * `keytoll keys edit key_0198… --monthly 250 --never`

    * `keytoll keys edit key_0198… --total 10 --dry-run`

    * `keytoll keys edit key_0198… --model bge-m3 --network 192.0.2.0/24`
    """
    _only_one("--expires", expires, "--never", never)
    _only_one("--model", model, "--any-model", any_model)
    _only_one("--network", network, "--any-network", any_network)
    _only_one("--disable", disable, "--enable", enable)
    changes = _quota(monthly=monthly, total=total, unlimited=unlimited) | _allowed(model, network)
    changes |= {"allowed_models": None} if any_model else {}
    changes |= {"allowed_networks": None} if any_network else {}
    changes |= {"disabled": disable} if disable or enable else {}
    if name is not None:
        changes["name"] = name
    if never:
        changes["expires_at"] = None
    if not changes and expires is None:
        raise typer.BadParameter("Say what to change; see --help.")
    with connected(server, run_dir) as client:
        about = client.about
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
    yes: Yes = False,
    as_json: Json = False,
    server: Server = None,
    run_dir: RunDir = None,
) -> None:
    """Delete a key. When the command returns, the key is refused; its charges stay.

    Requests that are already running finish and are charged.

    Example: `keytoll keys delete key_0198… --yes`
    """
    with connected(server, run_dir) as client:
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


def _only_one(name: str, value: object, other_name: str, other: object) -> None:
    if value and other:
        raise typer.BadParameter(f"Give only one of {name} and {other_name}.")


def _allowed(models: list[str] | None, networks: list[str] | None) -> dict[str, Any]:
    given = {"allowed_models": models, "allowed_networks": networks}
    return {name: value for name, value in given.items() if value}


def _expiry(client: Client, expires: str | None) -> dict[str, str]:
    return {} if expires is None else {"expires_at": expiry(expires, client.about, field="expires")}


def _print_created(key: Mapping[str, Any]) -> None:
    typer.echo(f"Created the key {_described(key)}, id {key['id']}:")
    print_secret(key)


def _print_rotated(key: Mapping[str, Any], about: Mapping[str, str]) -> None:
    until = key["old_valid_until"]
    old = "no longer works" if until is None else f"works until {exactly(until, about)}"
    typer.echo(f"The key {_described(key)}, id {key['id']}, has a new secret; the old one {old}:")
    print_secret(key)


def _print_key(key: Mapping[str, Any], about: Mapping[str, str]) -> None:
    facts = {
        "ID": key["id"],
        "Owner": key["owner"],
        "Name": key["name"],
        "API Key": key["masked_key"],
        "Status": "disabled" if key["disabled"] else "enabled",
        "Usage Quota": quota(key, about),
        "Remaining": optional_amount(key["remaining"], about, otherwise="Unlimited"),
        "Resets At": optional_time(key["resets_at"], about),
        "Expiration": expiration(key["expires_at"], about),
        "Models": listed(key["allowed_models"], otherwise="All"),
        "Networks": listed(key["allowed_networks"], otherwise="Everywhere"),
        "Created": f"{when(key['created_at'], about)} by {key['created_by']}",
        "Last Used": optional_time(key["last_used_at"], about),
        "Old Secret": optional_time(key["old_valid_until"], about, prefix="works until "),
    }
    print_facts(facts)


def _print_preview(preview: Mapping[str, Any], about: Mapping[str, str]) -> None:
    before, after = preview["before"], preview["after"]
    typer.echo(f"A dry run of an edit at {exactly(preview['from'], about)}; nothing was changed.\n")
    columns = ["", "Name", "Usage Quota", "Expiration"]
    print_table(columns, [[which, *_editable(key, about)] for which, key in (("before", before), ("after", after))])
    typer.echo("")
    for effect in preview["effects"]:
        typer.echo(f"* {effect}")


def _editable(key: Mapping[str, Any], about: Mapping[str, str]) -> list[str]:
    return [key["name"], quota(key, about), status(key, about)]


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
        status(key, about),
        when(key["created_at"], about),
    ]
