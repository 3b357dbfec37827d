"""What a store must do. One conformance suite (tests/store) runs over every implementation.

Values that cross this line are core's frozen dataclasses, never rows. Driver errors are wrapped once, in the store.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from keytoll.core.audit import Action, AuditEvent
from keytoll.core.keys import Key, KeyStatus
from keytoll.core.ledger import Charge, Kind
from keytoll.core.owners import AccessToken, Member, Organization, User
from keytoll.core.permissions import Person
from keytoll.core.pricing import Prices
from keytoll.core.quota import QuotaKind, Totals
from keytoll.core.usage import Group, UsageRow


class StoreUnavailable(Exception):
    """The store can't be reached, is full or is broken; the cause is chained. An outage: never a denial."""


class StoreLocked(Exception):
    """Another Keytoll owns this store. The message is one line for the operator."""


class StoreTooNew(Exception):
    """A newer Keytoll has migrated this store; migrations go forward only. The message is one line for the operator."""


class NameTaken(Exception):
    """The owner has another key of this name."""


class KeyChanged(Exception):
    """The key isn't as it was read any more: somebody else got ahead with a change of it."""


class AskedMeanwhile(Exception):
    """Somebody else got ahead with a change that was asked for under the same id."""


class OwnerNotFound(Exception):
    """There is no such person or organization."""


class OwnerTaken(Exception):
    """There is a person or an organization of this name already."""


class OwnerDeleted(Exception):
    """A person or an organization of this name was deleted: charges are kept by the name, so it isn't used twice."""


class LastAdmin(Exception):
    """The organization would be left without an admin."""


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


class KeyMonth(NamedTuple):
    """What a grant is of: a key, and the month in which the requests that it covers were admitted."""

    key_id: str
    month: str


class Granted(NamedTuple):
    """What a replica is granted, in nano-units. Of two answers that tell it, that of the higher version holds."""

    granted_nano: int
    version: int


@dataclass(frozen=True, slots=True)
class Posted:
    """What posting a batch did.

    `charges` are those that are new, as they were posted: as a correction where the decision had been given up as
    unsettled before. `repeated` counts entries that were there already, which changes nothing; `conflicts` are charges
    whose decision has another entry, which were kept out. `totals` holds, for each key with a new charge, its lifetime
    and the months that changed, as of `revision`. `unsettled` are the decisions that are newly given up. `grants` holds
    what is left of this replica's grants that covered any entry of the batch, if replicas share the store.
    """

    revision: int
    charges: Sequence[Charge] = ()
    repeated: int = 0
    conflicts: Sequence[Charge] = ()
    totals: Mapping[str, Totals] = field(default_factory=dict)
    unsettled: Sequence[Charge] = ()
    grants: Mapping[KeyMonth, Granted] = field(default_factory=dict)


class PriceRecord(NamedTuple):
    """That a model has the prices of `price_id` from `from_us` on, as was noted at `noted_at_us`.

    Of the records of one `from_us`, the one that was noted last applies.
    """

    from_us: int
    price_id: str
    noted_at_us: int


class KeySort(StrEnum):
    """What keys are listed by. A key that never expires comes after all others, one that was never used before them."""

    CREATED_AT = "created_at"
    NAME = "name"
    EXPIRES_AT = "expires_at"
    LAST_USED_AT = "last_used_at"


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Which keys to list, of one owner or of all, and in which order.

    `text` is in their names, whatever the case. `after` is the `key_cursor` of the last key of the page before.
    """

    owner: str | None = None
    text: str | None = None
    status: KeyStatus | None = None
    quota: QuotaKind | None = None
    sort: KeySort = KeySort.CREATED_AT
    descending: bool = False
    after: str | None = None
    limit: int = 100


def key_cursor(stored: StoredKey, sort: KeySort) -> str:
    """Return what names a key as the last one of a page.

    That is its id, and where it may be used between two pages, when it was used as it was listed: else the second page
    might begin anew with what was on the first one.
    """
    return f"{stored.key.id}@{stored.last_used_at_us or 0}" if sort is KeySort.LAST_USED_AT else stored.key.id


@dataclass(frozen=True, slots=True)
class ChargeQuery:
    """Which charges to list, newest admission first: those at or after `since_us`, and before `until_us`.

    `after` is the id of the last charge of the page before.
    """

    owner: str | None = None
    key_id: str | None = None
    model: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    after: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which usage to sum, of one owner or of all: from the day `since` through the day `until`, `YYYY-MM-DD`."""

    since: str
    until: str
    owner: str | None = None
    group_by: frozenset[Group] = frozenset()
    limit: int = 100


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which events to list, newest first: those at or after `since_us`, and before `until_us`.

    `after` is the id of the last event of the page before.
    """

    owner: str | None = None
    actor: str | None = None
    action: Action | None = None
    since_us: int | None = None
    until_us: int | None = None
    after: str | None = None
    limit: int = 100


class KeyStore(Protocol):
    """Keys. A deleted key is gone for every method here; only its charges and its name remain.

    Each change is kept together with the event that tells of it, or not at all.
    """

    async def create_key(
        self, key: Key, *, event: AuditEvent, sign_up: AuditEvent | None = None, once: Once | None = None
    ) -> None:
        """Keep a new key, and that it was asked for.

        Raises NameTaken, OwnerNotFound, OwnerDeleted and AskedMeanwhile.

        With `sign_up`, an owner that is unknown is made at once, and that is the event which tells of it.
        """

    async def key_by_digest(self, digest: bytes) -> StoredKey | None:
        """Return the key whose secret, or whose old one, has this SHA-256, with its totals, in one consistent read."""

    async def key_by_id(self, key_id: str) -> StoredKey | None:
        """Return the key of this id, with its totals, in one consistent read."""

    async def key_named(self, owner: str, name: str) -> str | None:
        """Return the id of an owner's key of this name."""

    async def key_names(self, key_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the names of keys by their ids, those of deleted keys too."""

    async def list_keys(self, query: KeyQuery, *, now_us: int, month: str) -> Sequence[StoredKey]:
        """Return the keys that match; how they stand is asked at an instant in a month. None if `after` is unknown."""

    async def update_key(self, key: Key, *, event: AuditEvent, before: Key | None = None) -> bool:
        """Write what is edited of a key, as it is in `key`; False if there is none of its id.

        That is the name, quota, expiry, what it is allowed, and whether it is disabled. Raises NameTaken, and KeyChanged
        if the key is not as it is in `before`.
        """

    async def rotate_key(
        self, key: Key, *, event: AuditEvent, before: Key | None = None, once: Once | None = None
    ) -> bool:
        """Write the secrets of a key, as they are in `key`, and that it was asked for; False if there is none of its id.

        Raises KeyChanged as `update_key`, and AskedMeanwhile.
        """

    async def asked_once(self, once_id: bytes) -> Once | None:
        """Return what was asked for under this id, if that is remembered."""

    async def forget_asked(self, *, before_us: int) -> None:
        """Forget what was asked for before an instant."""

    async def delete_key(self, key_id: str, *, deleted_at_us: int, event: AuditEvent) -> bool:
        """Delete a key; False if there is none of this id."""


class OwnerStore(Protocol):
    """People, organizations, who belongs to which, and access tokens; each change together with its event.

    People and organizations go by the NAME of `users/NAME` and `organizations/NAME`. A deleted one is gone for every
    method here, and its name is never used again.
    """

    async def create_user(self, user: User, *, event: AuditEvent) -> None:
        """Keep a new person, who has no token and belongs nowhere yet. Raises OwnerTaken and OwnerDeleted."""

    async def create_organization(self, organization: Organization, *, admin: Member | None, event: AuditEvent) -> None:
        """Keep a new organization, with one member or none. Raises OwnerTaken, OwnerDeleted, and OwnerNotFound."""

    async def delete_owner(
        self, owner: str, *, deleted_at_us: int, event: AuditEvent, key_event: Callable[[Key], AuditEvent]
    ) -> Sequence[Key] | None:
        """Delete a person or an organization with all keys, each of which has an event of its own, token and members.

        Returns the keys; None if there is no such owner.
        """

    async def user(self, name: str) -> User | None:
        """Return a person."""

    async def list_users(self, *, after: str | None, limit: int) -> Sequence[User]:
        """Return people by ascending name, those after the name `after`."""

    async def organization(self, name: str) -> Organization | None:
        """Return an organization."""

    async def list_organizations(self, *, of: str | None, after: str | None, limit: int) -> Sequence[Organization]:
        """Return organizations by ascending name: all, or those that a person belongs to."""

    async def person_by_token(self, digest: bytes) -> Person | None:
        """Return whose access token has this SHA-256, with their roles, in one consistent read."""

    async def put_access_token(self, user: str, token: AccessToken, *, event: AuditEvent) -> None:
        """Give a person an access token, in the place of the one before. Raises OwnerNotFound."""

    async def drop_access_token(self, user: str, *, event: AuditEvent) -> bool:
        """Take a person's access token away; False if there is none."""

    async def member(self, organization: str, user: str) -> Member | None:
        """Return a member."""

    async def list_members(self, organization: str, *, after: str | None, limit: int) -> Sequence[Member]:
        """Return members by ascending name, those after the name `after`."""

    async def put_member(self, organization: str, member: Member, *, event: AuditEvent, keep_an_admin: bool) -> None:
        """Let a person belong to an organization, or have another role in it; since when they do stays as it was.

        Raises OwnerNotFound, and with `keep_an_admin` LastAdmin if no admin would be left.
        """

    async def remove_member(self, organization: str, user: str, *, event: AuditEvent, keep_an_admin: bool) -> bool:
        """Remove a member; False if there is none. Raises LastAdmin as `put_member`."""


class AuditStore(Protocol):
    """The audit log. Events are only ever added, each by the change that it tells of."""

    async def list_events(self, query: AuditQuery) -> Sequence[AuditEvent]:
        """Return the events that match, newest first, of one instant by descending id. None if `after` is unknown."""


class LedgerStore(Protocol):
    """Charges, running totals, prices and the journal's positions."""

    async def post(self, batch: Batch) -> Posted:
        """Post a batch in one transaction: rows, totals (key lifetime, key by month, owner by month), usage, positions.

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

    async def archive_charges(self, *, before_us: int, name: str, event: AuditEvent | None) -> int:
        """Move some rows that were admitted before an instant into the archive of this name; return how many, 0 if none
        is left. Totals and usage stay as they are, and a repeat of an entry is told from a new one as before.

        Unsettled rows stay until their correction has come. In the same transaction `event` tells of it.
        """

    async def owner_totals(self, owner: str) -> Mapping[str, int]:
        """Return what an owner spent, by month, in nano-units."""

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return the sums of charges and corrections, one for each group, sorted as the groups are."""

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


class Store(KeyStore, OwnerStore, AuditStore, LedgerStore, Protocol):
    """A whole store."""

    async def keep_currency(self, currency: str) -> str:
        """Note the currency of the ledger at the first call; return the one that is kept. It can never change."""

    async def close(self) -> None:
        """Finish what is running and close."""
