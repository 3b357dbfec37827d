"""The shared store: a PostgreSQL database, or another one that speaks its protocol and has what is used of it."""

from keytoll.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
