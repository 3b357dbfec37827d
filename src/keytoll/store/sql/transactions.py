"""What a transaction can do, whichever database it is in, and how one is run to its end whoever stops waiting for it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from keytoll.store.base import KeyQuery

Row = Sequence[Any]
Values = Mapping[str, Any] | Row
"""What a statement takes: by name for `:name`, else in order for `?`."""

T = TypeVar("T")


class Dialect(Protocol):
    """The statements that each database says in its own way: its module `queries`."""

    KEY_BY_DIGEST: str
    KEY_BY_ID: str
    KEY_TO_CHANGE: str
    KEY_NAMES: str
    DELETE_KEYS_OF_OWNER: str
    OWNER: str
    USER: str
    LIST_USERS: str
    PERSON_BY_TOKEN: str
    REMOVE_MEMBERS: str
    TWO_ADMINS: str
    SETTLED: str
    INSERT_PRICES: str
    NOTE_PRICES: str
    FORGET_POSITIONS: str

    def list_keys(self, query: KeyQuery) -> str:
        """Return the statement with only the conditions that the query gives."""


class Transaction(Protocol):
    """An open transaction; `dialect` is what its database says in its own way."""

    @property
    def dialect(self) -> Dialect: ...

    async def fetch(self, statement: str, values: Values = ()) -> Sequence[Any]:
        """Run a statement and return the rows that it finds or returns."""

    async def repeat(self, statement: str, rows: Iterable[Values]) -> None:
        """Run a statement for each of the rows."""


Work = Callable[[Transaction], Coroutine[Any, Any, T]]
"""What is done in a transaction. It may be done again in another one if the first had to be given up."""


class Underway:
    """The transactions that were started and aren't over."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()

    async def run(self, transaction: Coroutine[Any, Any, T]) -> T:
        """Run a transaction and return its result.

        A caller that is cancelled only stops waiting: the transaction goes on, so that it is never left half-way open.
        """
        task = asyncio.create_task(transaction)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Wait for all transactions that were started."""
        while self.tasks:
            await asyncio.wait(self.tasks)
