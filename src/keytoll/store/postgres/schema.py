"""Migrations: numbered scripts that go forward only, and are run once, by whichever Keytoll comes first.

An older Keytoll may be running meanwhile, and may start anew until all are replaced. So a script only adds: tables,
columns that are NULL or have a default, indexes. One that must do more says in `OLDEST` from which schema on a Keytoll
still understands what it leaves, and older ones refuse to start.
"""

from functools import cache
from importlib.resources import files

import asyncpg

from keytoll.store.base import StoreTooNew

OLDEST = 1
"""The oldest schema whose Keytoll works with the newest one."""

_LOCK = 0x6B65_7974_6F6C_6C02

_VERSION_TABLE = """
CREATE TABLE IF NOT EXISTS schema_version (
    only_one boolean PRIMARY KEY DEFAULT TRUE CHECK (only_one),
    version  bigint NOT NULL,  -- the number of the last script that was run
    oldest   bigint NOT NULL   -- the oldest one whose Keytoll works with it
)
"""
_START = "INSERT INTO schema_version (version, oldest) VALUES (0, 0) ON CONFLICT DO NOTHING"
_VERSION = "SELECT version, oldest FROM schema_version"
_NOTE = "UPDATE schema_version SET version = $1, oldest = $2"


async def migrate(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Bring the database to this code's schema, all of it or nothing. Raises StoreTooNew if it is beyond this code."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(_VERSION_TABLE)
        await connection.execute(_START)
        version, oldest = (await connection.fetch(_VERSION))[0]
        newest = max(_scripts())
        if oldest > newest:
            raise StoreTooNew(
                f"the PostgreSQL store is of schema {version}, from a newer Keytoll; this one knows {newest}"
            )
        for number in range(version + 1, newest + 1):
            await connection.execute(_scripts()[number])
        if version < newest:
            await connection.execute(_NOTE, newest, OLDEST)


@cache
def _scripts() -> dict[int, str]:
    folder = files(__package__) / "migrations"
    scripts = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return {int(file.name.partition("_")[0]): file.read_text("utf-8") for file in scripts}
