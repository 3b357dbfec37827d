"""The PostgreSQL server: connections to it, transactions on it, and what its driver's errors mean.

A URL holds a password. So no message says it, and no error is chained that might.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from keytoll.store.base import StoreUnavailable
from keytoll.store.postgres import queries
from keytoll.store.sql.transactions import Dialect, Underway, Values, Work

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    PooledConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections look-ups, lists, changes and grants take at most, each apart, so that none keeps the others
    waiting; and how long a connection, a statement and a free connection are waited for."""

    lookups: int = 4
    lists: int = 3
    changes: int = 3
    grants: int = 2
    connect_s: float = 5.0
    statement_s: float = 10.0
    free_s: float = 5.0

    @property
    def connections(self) -> int:
        """How many there are in all: one more for charges, and one for the lease, which nothing may hold up."""
        return self.lookups + self.lists + self.changes + self.grants + 2


BOUNDS = Bounds()

_ATTEMPTS = 8
"""How often a transaction is tried that others get in the way of."""

_ROLLBACK_S = 1.0
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_BEGIN_QUICK = f"{_BEGIN}; SET LOCAL idle_in_transaction_session_timeout = '1s'; SET LOCAL lock_timeout = '2s'"


@asynccontextmanager
async def connected(url: str, bounds: Bounds = BOUNDS, *, name: str = "keytoll") -> "AsyncIterator[Connection]":
    """Open one connection, whose statements may take their time, and close it in the end. Raises StoreUnavailable."""
    with _opening():
        connection = await asyncpg.connect(url, timeout=bounds.connect_s, server_settings={"application_name": name})
    try:
        yield connection
    finally:
        try:
            await connection.close(timeout=bounds.connect_s)
        except _OUTAGES:
            connection.terminate()


class Database:
    """A bounded pool of connections, and what runs on them. Connections that are lost are made anew when needed."""

    def __init__(self, pool: "Pool", bounds: Bounds) -> None:
        self._pool = pool
        self._bounds = bounds
        self._lookups = asyncio.Semaphore(bounds.lookups)
        self._lists = asyncio.Semaphore(bounds.lists)
        self._changes = asyncio.Semaphore(bounds.changes)
        self._grants = asyncio.Semaphore(bounds.grants)
        # One after the other, in the order of the calls: they would wait for each other's totals anyway.
        self._posts = asyncio.Semaphore(1)
        self._underway = Underway()

    @classmethod
    async def open(cls, url: str, bounds: Bounds = BOUNDS) -> "Database":
        """Open the pool, with one connection for a start. Raises StoreUnavailable."""
        timeout_ms = str(int(bounds.statement_s * 1000))
        with _opening():
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=bounds.connections,
                timeout=bounds.connect_s,
                # The server's own limit comes first: it leaves the connection in order.
                command_timeout=bounds.statement_s + 1,
                server_settings={
                    "application_name": "keytoll",
                    "statement_timeout": timeout_ms,
                    "idle_in_transaction_session_timeout": timeout_ms,
                },
                reset=_leave,
            )
        return cls(pool, bounds)

    async def look_up(self, statement: str, values: Values) -> Sequence[Any]:
        """Run a statement that reads, for which a request waits."""
        async with _turn(self._lookups, self._bounds.free_s):
            return await self.run(statement, values)

    async def read_list(self, statement: str, values: Values) -> Sequence[Any]:
        """Run a statement that reads, when a few others of its sort leave room."""
        async with _turn(self._lists, self._bounds.free_s):
            return await self.run(statement, values)

    async def run(self, statement: str, values: Values) -> Sequence[Any]:
        """Run a statement at once. For the lease alone: it has a connection to itself."""
        with driver_errors():
            async with self._pool.acquire(timeout=self._bounds.free_s) as connection:
                return await _fetch(connection, statement, values)

    async def change(self, work: Work[T]) -> T:
        """Run the work in a transaction: committed if it returns, rolled back if it raises."""
        return await self._underway.run(self._tried(work, self._changes))

    async def grant(self, work: Work[T]) -> T:
        """Run the work in a transaction, as `change`, for which requests wait.

        It locks what other replicas wait for, so the server ends it when it hears nothing more of it for a second.
        """
        return await self._underway.run(self._tried(work, self._grants, begin=_BEGIN_QUICK))

    async def post(self, work: Work[T]) -> T:
        """Run the work in a transaction, as `change`, but in the order of the calls."""
        return await self._underway.run(self._tried(work, self._posts))

    async def close(self) -> None:
        """Finish what is running, and close all connections."""
        await self._underway.finish()
        try:
            await asyncio.wait_for(self._pool.close(), self._bounds.statement_s)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    async def _tried(self, work: Work[T], turns: asyncio.Semaphore, *, begin: str = _BEGIN) -> T:
        async with _turn(turns, self._bounds.statement_s):
            with driver_errors():
                for _ in range(_ATTEMPTS - 1):
                    with _passing_over_what_is_in_the_way():
                        return await self._transaction(work, begin)
                return await self._transaction(work, begin)

    async def _transaction(self, work: Work[T], begin: str) -> T:
        async with self._pool.acquire(timeout=self._bounds.free_s) as connection:
            try:
                await connection.execute(begin)
                result = await work(_Transaction(connection))
                await connection.execute("COMMIT")
            except BaseException:
                await _roll_back(connection)
                raise
        return result


class _Transaction:
    """An open transaction."""

    def __init__(self, connection: "PooledConnection") -> None:
        self._connection = connection
        self.dialect: Dialect = queries

    async def fetch(self, statement: str, values: Values = ()) -> Sequence[Any]:
        """Run a statement and return the rows that it finds or returns."""
        return await _fetch(self._connection, statement, values)

    async def repeat(self, statement: str, rows: Iterable[Values]) -> None:
        """Run a statement for each of the rows."""
        given = list(rows)
        if given:
            prepared = _prepared(statement)
            await self._connection.executemany(prepared.text, [prepared.arguments(values) for values in given])


async def _fetch(connection: "PooledConnection", statement: str, values: Values) -> Sequence[Any]:
    prepared = _prepared(statement)
    return await connection.fetch(prepared.text, *prepared.arguments(values))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A statement with PostgreSQL's `$1` for each value, and the names of these values if they have any."""

    text: str
    names: Sequence[str]

    def arguments(self, values: Values) -> Sequence[Any]:
        """Return the values in their order."""
        return [values[name] for name in self.names] if isinstance(values, Mapping) else values


_VALUE = re.compile(r"(?<!:):([a-z]\w*)|\?")


@lru_cache(maxsize=1024)
def _prepared(statement: str) -> _Prepared:
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names or found[1] is None:
            names.append(found[1])
        return f"${len(names) if found[1] is None else names.index(found[1]) + 1}"

    return _Prepared(_VALUE.sub(number, statement), tuple(names))


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore, patience_s: float) -> AsyncIterator[None]:
    """Wait for a turn, but not for ever."""
    with driver_errors():
        await asyncio.wait_for(turns.acquire(), patience_s)
    try:
        yield
    finally:
        turns.release()


async def _roll_back(connection: "PooledConnection") -> None:
    """Roll back, or drop a connection that can't: the server then does it."""
    try:
        await connection.execute("ROLLBACK", timeout=_ROLLBACK_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        connection.terminate()


async def _leave(_: "Connection") -> None:
    """Leave a connection as it is when it goes back to the pool: nothing of a session's state is ever set."""


@contextmanager
def _passing_over_what_is_in_the_way() -> Iterator[None]:
    """Pass over the error if another transaction got in the way: the same again may well work."""
    try:
        yield
    except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
        pass
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "owners_pkey":  # two signed up one owner at once; the other one's is there by now
            raise


_OUTAGES = (
    OSError,  # TimeoutError too
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
)
"""What tells of the server, the network or another transaction, and not of a mistake in a statement."""


@contextmanager
def driver_errors() -> Iterator[None]:
    """Raise StoreUnavailable for an outage, with its cause, and OverflowError for what is beyond 64 bits.

    Anything else is a mistake of ours and goes on as it is.
    """
    try:
        yield
    except asyncpg.NumericValueOutOfRangeError as error:
        raise OverflowError("a sum would pass 64 bits") from error
    except asyncpg.DataError as error:  # of the driver, which couldn't send the number
        if isinstance(error.__cause__, OverflowError):
            raise OverflowError("a number is beyond 64 bits") from error
        raise
    except _OUTAGES as error:
        if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
            raise
        raise StoreUnavailable(f"PostgreSQL: {_told(error)}") from error


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it didn't answer in time"
    if isinstance(error, OSError):
        return f"it can't be reached: {error.strerror or type(error).__name__}"
    return str(error)


@contextmanager
def _opening() -> Iterator[None]:
    """Raise StoreUnavailable for whatever stands in the way of a connection."""
    wrong_url = False
    try:
        with driver_errors():
            yield
    except asyncpg.PostgresError as error:
        raise StoreUnavailable(f"PostgreSQL: {error}") from error
    except ValueError:  # which tells parts of the URL, so it isn't even chained
        wrong_url = True
    if wrong_url:
        raise StoreUnavailable("the store's URL must be like postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
