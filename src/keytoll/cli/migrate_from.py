"""`keytoll store migrate-from`: from SQLite to PostgreSQL."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote

import typer

from keytoll.cli.failure import Failure
from keytoll.core.money import currency_symbol, format_amount
from keytoll.settings import POSTGRES_SCHEMES

if TYPE_CHECKING:
    from keytoll.store.moving import Moved

_SQLITE = "sqlite://"


def migrate_from(
    source: Annotated[
        str,
        typer.Argument(metavar="URL", help="The SQLite database: sqlite:///srv/keytoll.db, or just its path."),
    ],
    *,
    store: Annotated[
        str,
        typer.Option(
            envvar="KEYTOLL_STORE",
            metavar="URL",
            help="The PostgreSQL database, which must be empty: postgresql://USER:PASSWORD@HOST:PORT/DATABASE. Others may"
            " see the command line, so say a password in the environment.",
        ),
    ],
) -> None:
    """Move everything from an SQLite database to a PostgreSQL one. Keytoll must run on neither.

    All of it is moved, or nothing. Each row is compared with the original before that is said. The SQLite database is
    left as it is; keep it until Keytoll runs on the other one, and never start Keytoll on it again after that.

    Example, with KEYTOLL_STORE set: `keytoll store migrate-from sqlite:///srv/keytoll.db`
    """
    if not store.startswith(POSTGRES_SCHEMES):
        raise typer.BadParameter("must be postgresql://…", param_hint="KEYTOLL_STORE")
    for line in _lines(_moved(Path(_path(source)), store)):
        typer.echo(line)


def _path(source: str) -> str:
    path = unquote(source.removeprefix(_SQLITE)) if source.startswith(_SQLITE) else source
    if "://" in path or not path:
        raise typer.BadParameter("must be like sqlite:///srv/keytoll.db", param_hint="URL")
    return path


def _moved(source: Path, url: str) -> "Moved":
    import asyncio

    from keytoll.store.base import StoreLocked, StoreTooNew, StoreUnavailable
    from keytoll.store.moving import CannotMove, move

    try:
        return asyncio.run(move(source, url))
    except (CannotMove, StoreLocked, StoreTooNew, StoreUnavailable) as error:
        raise Failure(str(error)) from error


def _lines(moved: "Moved") -> list[str]:
    amount = f"{currency_symbol(moved.currency or '')}{format_amount(moved.charged_nano)}".strip()
    rows = [f"{table}: {count:,}" for table, count in moved.rows.items() if count]
    return [
        f"Moved {sum(moved.rows.values()):,} rows, each the same as before ({', '.join(rows) or 'none'}).",
        f"The charges come to {amount} on both sides, and every total is the same.",
    ]
