"""ALS messages as an Envoy reports them, and a settlement that takes them many at a time."""

from collections.abc import Iterator, Sequence
from random import Random

from settlement.conftest import CALENDAR, Desk
from settlement.lines import als_entry

from keytoll.envoy.messages.access_log_pb2 import StreamAccessLogsMessage
from keytoll.settlement import Logged, Settlement
from keytoll.store.base import Position, Posted, Rejected


class Gathering(Settlement):
    """Settles many messages in one transaction, since a fuzz has no time for one each."""

    logged: list[Logged]
    rejected: list[Rejected]

    async def post(
        self, logged: Sequence[Logged], *, rejected: Sequence[Rejected] = (), positions: Sequence[Position] = ()
    ) -> Posted:
        """Keep the entries for the next flush."""
        assert not positions
        self.logged += logged
        self.rejected += rejected
        return Posted(0)

    async def flush(self) -> None:
        """Post what was gathered."""
        await super().post(self.logged, rejected=self.rejected)
        self.logged, self.rejected = [], []


def gathering(desk: Desk) -> Gathering:
    """Return a settlement into the desk's ledger."""
    settlement = Gathering(
        desk.store, cache=desk.cache, book=desk.book, calendar=lambda: CALENDAR, clock=desk.clock, metrics=desk.metrics
    )
    settlement.logged, settlement.rejected = [], []
    return settlement


def any_als_message(rng: Random, numbers: Iterator[int]) -> bytes:
    """Return a message of one to three entries."""
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.extend(als_entry(next(numbers)) for _ in range(rng.choice((1, 1, 2, 3))))
    return message.SerializeToString(deterministic=True)  # else the seed would not tell all
