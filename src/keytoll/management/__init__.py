"""Management: what owners and operators do with keys, people and organizations, and with the ledger, whichever way they
come.

Every method is told who asks (`by`), and raises Hidden or Forbidden where they may not do it. A change is in force when
its method returns: the store has it, with the event that tells of it, and no Check of any replica can see the old state
any more; or NotEverywhere says which may, and until when.
Every method may raise StoreUnavailable; those that take values raise InvalidValue, naming the field as the REST API
does.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keytoll.core.holds import KeyHolds
from keytoll.core.months import Calendar
from keytoll.management.audit import Audit
from keytoll.management.books import (
    Archived,
    Books,
    ChargeNotFound,
    ExplainedCharge,
    ListedCharge,
    Unsettled,
    UsageReport,
)
from keytoll.management.changes import Cache, Changes, Everywhere, NotEverywhere, NotYet
from keytoll.management.keys import (
    UNCHANGED,
    Access,
    Asked,
    EditPreview,
    KeyChanges,
    KeyNotFound,
    Keys,
    RepeatDiffers,
    RepeatOfDeleted,
    Standing,
)
from keytoll.management.owners import MemberNotFound, Owners, TokenNotFound
from keytoll.management.pages import MAX_PAGE, Page
from keytoll.store.base import Store

__all__ = [
    "MAX_PAGE",
    "UNCHANGED",
    "Access",
    "Archived",
    "Asked",
    "Audit",
    "Books",
    "Cache",
    "ChargeNotFound",
    "EditPreview",
    "ExplainedCharge",
    "KeyChanges",
    "KeyNotFound",
    "Keys",
    "ListedCharge",
    "Management",
    "MemberNotFound",
    "NotEverywhere",
    "NotYet",
    "Owners",
    "Page",
    "RepeatDiffers",
    "RepeatOfDeleted",
    "Standing",
    "TokenNotFound",
    "Unsettled",
    "UsageReport",
    "create_management",
]


@dataclass(frozen=True, slots=True)
class Management:
    """The services: keys, their owners, the ledger, and the audit log."""

    keys: Keys
    owners: Owners
    books: Books
    audit: Audit


def create_management(
    *,
    store: Store,
    cache: Cache,
    calendar: Calendar,
    clock: Callable[[], int],
    random: Callable[[int], bytes],
    held: Callable[[str], KeyHolds] = lambda _: KeyHolds(),
    everywhere: Everywhere | None = None,
) -> Management:
    """Return the services.

    `clock` gives microseconds since the UNIX epoch, `random` as many random bytes as asked for, `held` what the requests
    under way of a key hold. `everywhere` waits for all replicas, if several share the store.
    """
    changes = Changes(store, cache, clock=clock, random=random, everywhere=everywhere)
    return Management(
        keys=Keys(store, changes, calendar=calendar, held=held),
        owners=Owners(store, changes),
        books=Books(store, changes, calendar=calendar),
        audit=Audit(store),
    )
