"""The embedded store: one SQLite file for one Keytoll, with any number of readers beside it, such as backup tools."""

from keytoll.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
