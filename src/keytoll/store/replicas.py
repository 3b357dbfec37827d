"""What a shared store does for the replicas that use it: leases, the feed of changes, and allowances.

A store that one Keytoll alone uses has none of this: it needs no permission to count what it alone counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, NoReturn, Protocol

from keytoll.core.allowance import Ask, Outcome
from keytoll.core.quota import Totals
from keytoll.store.base import Granted, KeyMonth, Store


class Superseded(Exception):
    """Another process goes by this replica's id. The message is one line for the operator."""


class Lapsed(Exception):
    """The replica's lease has run out, or it never joined: it must join anew, with nothing remembered."""


class Member(NamedTuple):
    """A replica that has joined: its id, and which of the processes that went by it this is."""

    replica: str
    epoch: int


Held = Sequence[tuple[KeyMonth, int | None]]
"""What a replica's requests under way hold, in nano-units; None: it can't be bounded."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Who a replica is now, the number of the last change so far, and what it was granted that its holds keep."""

    member: Member
    seen: int
    grants: Mapping[KeyMonth, Granted]


@dataclass(frozen=True, slots=True)
class KeyChange:
    """That a key was edited, rotated or deleted: the SHA-256 of all its secrets, before and after."""

    key_id: str
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class News:
    """What changed after the change that was seen last, up to `seq`; how many replicas there are, this one included."""

    seq: int
    changes: Sequence[KeyChange]
    replicas: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking: the outcome, what is granted then, whether that is the `whole` of what is left, and what the
    key has spent as of `revision`."""

    outcome: Outcome
    granted: Granted
    whole: bool
    totals: Totals
    revision: int


@dataclass(frozen=True, slots=True)
class Behind:
    """A replica that may still admit by the state before a change, for so long at most."""

    replica: str
    for_s: float


class Word(StrEnum):
    """What the store tells all replicas at once: that keys changed; and of one key, that what isn't used of it shall
    come back, or did so. A word may get lost."""

    CHANGE = "change"
    RECALL = "recall"
    RETURNED = "returned"


class ReplicaStore(Store, Protocol):
    """A store that replicas share. Every method may raise StoreUnavailable."""

    async def join(self, replica: str, *, lease_s: float, held: Held) -> Joined:
        """Join, or join anew. Of what the replica was granted only what it holds stays.

        From then on, charges that are posted through this store take from its grants.
        """

    async def renew(self, member: Member, *, seen: int, lease_s: float) -> News:
        """Extend the lease, and tell that changes up to `seen` are in force at this replica.

        The lease must count from before the call; the store lets it end a little later. Raises Lapsed and Superseded.
        """

    async def leave(self, member: Member, *, held: Held) -> None:
        """End the lease. Of what the replica was granted only what it still holds stays, and returns in time."""

    async def ask(self, member: Member, of: KeyMonth, ask: Ask) -> Answer | None:
        """Grant something by the rule of `core.allowance`; if others hold it, ask them for it.

        None: the key has no limit any more, or is gone. Raises Lapsed.
        """

    async def give_back(
        self, member: Member, unused: Sequence[tuple[KeyMonth, int]], *, tell: bool
    ) -> dict[KeyMonth, Granted]:
        """Take amounts back from grants, and return what these are then; with `tell`, say so to all.

        Raises Lapsed if the replica has joined anew since.
        """

    async def last_change(self) -> int:
        """Return the number of the last change that is committed, 0 for none."""

    async def behind(self, seq: int) -> Sequence[Behind]:
        """Return who is alive and has not seen a change yet."""

    async def sweep(self, *, longest_s: float) -> int:
        """Take back what was granted to replicas whose leases lapsed so long ago that their requests are over.

        Returns how many they were. Forgets old changes, and grants that are used up.
        """

    async def listen(self, hear: Callable[[Word, str], None]) -> NoReturn:
        """Hear the words that concern all replicas, each with a key's id or "", until cancelled.

        Once it can hear, it says that keys have changed. Raises StoreUnavailable when it can't any more.
        """
