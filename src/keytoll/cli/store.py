"""`keytoll store`: the database as a whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from keytoll.cli.failure import Failure
from keytoll.cli.migrate_from import migrate_from
from keytoll.cli.place import PRIVATE_DIR
from keytoll.settings import Settings

app = typer.Typer(help="Backup, restore and move of the SQLite database.", no_args_is_help=True)
app.command("migrate-from")(migrate_from)

_RUN_DIR = Settings().run_dir
Folder = Annotated[
    Path, typer.Option("--run-dir", envvar=[PRIVATE_DIR, "RUN_DIR"], help="The folder that keytoll.db is in.")
]
Database = Annotated[
    str, typer.Option("--store", envvar="KEYTOLL_STORE", metavar="PATH", help="The database, if it is elsewhere.")
]


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make; there must be none of its name.")],
    *,
    run_dir: Folder = _RUN_DIR,
    store: Database = "",
) -> None:
    """Copy the database as it is at this instant: keys, totals and the whole ledger. Keytoll may run.

    Example: `keytoll store backup /backups/keytoll-2030-12-31.db`
    """
    from keytoll.store.sqlite.backup import back_up

    database = _database(run_dir, store)
    with _failures():
        rows = back_up(database, target)
    typer.echo(f"{target} holds {rows:,} rows of the ledger.")


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A backup, which is left as it is.")],
    *,
    run_dir: Folder = _RUN_DIR,
    store: Database = "",
) -> None:
    """Put a backup in the database's place. Keytoll must not run. The database that was there is kept as `*.before`.

    Leave the journal as it is: at its next start Keytoll charges from it once more what the backup doesn't know yet.

    Example: `keytoll store restore /backups/keytoll-2030-12-31.db`
    """
    from keytoll.store.sqlite.backup import restore as put_back

    database = _database(run_dir, store)
    with _failures():
        rows = put_back(source, database)
    typer.echo(f"{database} holds {rows:,} rows of the ledger. Start Keytoll now.")


def _database(run_dir: Path, store: str) -> Path:
    settings = Settings(run_dir=run_dir, store=store)
    if settings.postgres_url is not None:
        raise Failure("the store is a PostgreSQL database: copy it with pg_dump, and put it back with pg_restore")
    return settings.database


@contextmanager
def _failures() -> Iterator[None]:
    from keytoll.store.base import StoreLocked, StoreUnavailable

    try:
        yield
    except FileExistsError as error:
        raise Failure(f"{error.filename or error} is there already: move it away first") from error
    except (StoreLocked, StoreUnavailable) as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from error
