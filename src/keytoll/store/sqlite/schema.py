"""Migrations: numbered scripts that go forward only. SQLite's `user_version` holds the number of the last one."""

from functools import cache
from importlib.resources import files
from pathlib import Path

import aiosqlite

from keytoll.store.base import StoreTooNew


async def migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Bring the database to this code's version, each script in a transaction of its own. Raises StoreTooNew."""
    ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
    scripts = _scripts()
    check_not_newer(version, path)
    for number, script in sorted(scripts.items()):
        if number > version:
            await connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def check_not_newer(version: int, path: Path) -> None:
    """Raise StoreTooNew if a newer Keytoll has migrated the database to this version."""
    if version > newest():
        raise StoreTooNew(f"{path} is of schema {version}, from a newer Keytoll; this one knows {newest()}")


def newest() -> int:
    """Return the number of the newest script."""
    return max(_scripts())


@cache
def _scripts() -> dict[int, str]:
    folder = files(__package__) / "migrations"
    scripts = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return {int(file.name.partition("_")[0]): file.read_text("utf-8") for file in scripts}
