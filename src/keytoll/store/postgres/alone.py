"""One Keytoll at a time on a PostgreSQL store, as long as each admits by what it alone remembers.

It is a lock of the server's that lasts as long as the connection that took it. So it is freed by a crash, and whoever
loses the connection has lost the lock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg

from keytoll.store.base import StoreLocked
from keytoll.store.postgres.database import connected, driver_errors

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_LOCK = 0x6B65_7974_6F6C_6C01
_LOOK_S = 1.0
_PATIENCE_S = 3.0


class StoreLost(Exception):
    """Another Keytoll may own the store by now. The message is one line for the operator."""


class Alone:
    """That no other Keytoll has the store."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._gone = asyncio.Event()
        connection.add_termination_listener(lambda _: self._gone.set())

    @property
    def lost(self) -> bool:
        """Whether another Keytoll may have it."""
        return self._gone.is_set()

    async def run(self) -> None:
        """Raise StoreLost once the lock may be gone: the connection is closed, or silent for some seconds."""
        while await self._answers():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), _LOOK_S)
        self._gone.set()
        raise StoreLost("lost the connection that keeps the PostgreSQL store for this Keytoll alone: stopping")

    async def _answers(self) -> bool:
        try:
            await self._connection.execute("SELECT 1", timeout=_PATIENCE_S)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return False
        return True


@asynccontextmanager
async def alone(url: str) -> AsyncIterator[Alone]:
    """Be the only Keytoll on the store as long as the context lasts. Raises StoreLocked and StoreUnavailable."""
    async with connected(url, name="keytoll, alone") as connection:
        with driver_errors():
            taken = await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK)
        if not taken:
            raise StoreLocked("the PostgreSQL store is in use by another Keytoll; only one at a time may use it")
        guard = Alone(connection)
        try:
            yield guard
        finally:
            if guard.lost:
                connection.terminate()  # there is nobody to say goodbye to
