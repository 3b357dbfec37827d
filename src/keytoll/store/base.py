"""What a store must do. One conformance suite (tests/store) runs over every implementation.

Values that cross this line are core's frozen dataclasses, never rows. Driver errors are wrapped once, in the store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from uuid import UUID

from keytoll.core.keys import Key
from keytoll.core.ledger import Charge, Kind
from keytoll.core.pricing import Prices
from keytoll.core.quota import Totals


class StoreUnavailable(Exception):
    """The store can't be reached, is full or is broken; the cause is chained. An outage: never a denial."""


class StoreLocked(Exception):
    """Another Keytoll owns this store. The message is one line for the operator."""


class StoreTooNew(Exception):
    """A newer Keytoll has migrated this store; migrations go forward only. The message is one line for the operator."""


class NameTaken(Exception):
    """The owner has another key of this name."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with its totals as of `revision`, a number that grows with every batch that is posted.

    `last_used_at_us` is the newest admission of it that was settled when it was read, None for none.
    """

    key: Key
    totals: Totals
    revision: int
    last_used_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class Once:
    """That a change was asked for under an id of the caller's, so that a repeat can be told: `id` is a hash of that id
    and of what it was sent for, `fingerprint` one of what was asked for."""

    id: bytes
    fingerprint: bytes
    key_id: str
    at_us: int


MAX_ONCE = 100_000
"""How many changes a store remembers by the callers' ids; of more, the oldest are forgotten early."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A log entry that can't be settled: kept out of the ledger, but kept. `text` is the entry as it came."""

    reason: str
    text: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Position:
    """How far a journal file has been read: the bytes before `offset` are settled. `file` is its lasting identity."""

    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction posts: charges, entries that were kept out, and how far the journal is thereby read.

    `unsettled` are rows of that kind, for decisions that are given up. Raises ValueError for one among the charges, or
    a charge among them: its amount would miss the totals.
    """

    charges: Sequence[Charge] = ()
    rejected: Sequence[Rejected] = ()
    positions: Sequence[Position] = ()
    unsettled: Sequence[Charge] = ()

    def __post_init__(self) -> None:
        if any(charge.kind is Kind.UNSETTLED for charge in self.charges):
            raise ValueError("an unsettled row is no charge")
        if any(row.kind is not Kind.UNSETTLED or row.amount_nano for row in self.unsettled):
            raise ValueError("an unsettled row is of that kind, and of amount 0")


@dataclass(frozen=True, slots=True)
class Posted:
    """What posting a batch did.

    `charges` are those that are new, as they were posted: as a correction where the decision had been given up as
    unsettled before. `repeated` counts entries that were there already, which changes nothing; `conflicts` are charges
    whose decision has another entry, which were kept out. `totals` holds, for each key with a new charge, its lifetime
    and the months that changed, as of `revision`. `unsettled` are the decisions that are newly given up.
    """

    revision: int
    charges: Sequence[Charge] = ()
    repeated: int = 0
    conflicts: Sequence[Charge] = ()
    totals: Mapping[str, Totals] = field(default_factory=dict)
    unsettled: Sequence[Charge] = ()


class PriceRecord(NamedTuple):
    """That a model has the prices of `price_id` from `from_us` on, as was noted at `noted_at_us`.

    Of the records of one `from_us`, the one that was noted last applies.
    """

    from_us: int
    price_id: str
    noted_at_us: int


@dataclass(frozen=True, slots=True)
class ChargeQuery:
    """Which charges to list, newest admission first. `after` is the id of the last charge of the page before."""

    owner: str | None = None
    key_id: str | None = None
    since_us: int | None = None
    after: str | None = None
    limit: int = 100


class KeyStore(Protocol):
    """Keys. A deleted key is gone for every method here; only its charges remain."""

    async def create_key(self, key: Key, once: Once | None = None) -> None:
        """Keep a new key, and in the same transaction that it was asked for. Raises NameTaken."""

    async def key_by_digest(self, digest: bytes) -> StoredKey | None:
        """Return the key whose secret, or whose old one, has this SHA-256, with its totals, in one consistent read."""

    async def key_by_id(self, key_id: str) -> StoredKey | None:
        """Return the key of this id, with its totals, in one consistent read."""

    async def list_keys(self, *, owner: str | None, after: str | None, limit: int) -> Sequence[StoredKey]:
        """Return keys by ascending id (so by creation), of one owner or of all, those after the id `after`."""

    async def update_key(self, key: Key) -> bool:
        """Write what is edited of a key, as it is in `key`; False if there is none of its id. Raises NameTaken.

        That is the name, quota, expiry, what it is allowed, and whether it is disabled.
        """

    async def rotate_key(self, key: Key, once: Once | None = None) -> bool:
        """Write the secrets of a key, as they are in `key`, and that it was asked for; False if there is none of its id."""

    async def asked_once(self, once_id: bytes) -> Once | None:
        """Return what was asked for under this id, if that is remembered."""

    async def forget_asked(self, *, before_us: int) -> None:
        """Forget what was asked for before an instant."""

    async def delete_key(self, key_id: str, *, deleted_at_us: int) -> bool:
        """Delete a key; False if there is none of this id."""


class LedgerStore(Protocol):
    """Charges, running totals, prices and the journal's positions."""

    async def post(self, batch: Batch) -> Posted:
        """Post a batch in one transaction: rows, totals (key lifetime, key by month, owner by month), positions.

        Idempotent by decision id: a decision gets one charge, or one unsettled row and at most one correction of it. An
        unsettled row is posted only where the decision has no row yet, nor a charge in the same batch. A total that
        would pass 64 bits raises OverflowError, and nothing of the batch is posted.
        """

    async def charge(self, charge_id: str) -> Charge | None:
        """Return the row of this id, of any kind."""

    async def list_charges(self, query: ChargeQuery) -> Sequence[Charge]:
        """Return the charges and corrections that match, newest admission first."""

    async def list_unsettled(self, *, after: str | None, limit: int, settled_later: bool) -> Sequence[Charge]:
        """Return unsettled rows, newest admission first, those after the id `after`.

        Only the open ones, which have no correction, or with `settled_later` all.
        """

    async def count_unsettled(self) -> int:
        """Return how many unsettled rows are open. The time that it takes grows with that number only."""

    async def settled(self, decision_ids: Sequence[UUID]) -> set[UUID]:
        """Return those of the decisions that have a row of any kind: they are charged, or given up."""

    async def owner_totals(self, owner: str) -> Mapping[str, int]:
        """Return what an owner spent, by month, in nano-units."""

    async def add_prices(self, prices: Sequence[Prices]) -> None:
        """Keep price versions by their ids. A version that is there already stays as it is."""

    async def prices(self, price_id: str) -> Prices | None:
        """Return the price version of this id."""

    async def note_prices(self, model_prices: Sequence[tuple[str, int, Prices]], at_us: int) -> None:
        """Keep, in one transaction, which models have which prices from which instant on, and the versions themselves.

        Each is a model, the instant (us) and the prices. What was noted last already is not noted again.
        """

    async def price_history(self, model: str) -> Sequence[PriceRecord]:
        """Return all that was noted of a model's prices, by the instant that they apply from, then as it was noted."""

    async def positions(self) -> Mapping[str, int]:
        """Return the offset of every journal file that is known, by the file's identity."""

    async def forget_positions(self, files: Sequence[str]) -> None:
        """Drop the positions of journal files that are gone."""


class Store(KeyStore, LedgerStore, Protocol):
    """A whole store."""

    async def keep_currency(self, currency: str) -> str:
        """Note the currency of the ledger at the first call; return the one that is kept. It can never change."""

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""

    async def close(self) -> None:
        """Finish what is running and close."""
