"""The ledger, read: charges, how each comes about, what was never settled, and usage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import reduce
from operator import add

from keytoll.core.audit import Action, AuditEvent
from keytoll.core.errors import InvalidValue
from keytoll.core.explain import Explanation, explain, price_from_us
from keytoll.core.ledger import Charge, correction_id
from keytoll.core.months import Calendar, to_us
from keytoll.core.owners import check_owner
from keytoll.core.permissions import Actor, Hidden, Verb, check, check_operator
from keytoll.core.usage import Group, Sums, UsageRow
from keytoll.management.changes import Changes, to_the_end
from keytoll.management.pages import Page, check_limit, page_of
from keytoll.store.base import ChargeQuery, Store, UsageQuery

MAX_DAYS = 366
"""Over how many days usage is summed at most."""

MAX_GROUPS = 10_000
"""How many sums of usage are told at most: many more would keep everybody else waiting."""

_BATCHES = 20
"""Of some thousand rows each, which one request moves at most."""


class ChargeNotFound(Exception):
    """There is no row of this id in the ledger."""


@dataclass(frozen=True, slots=True)
class ListedCharge:
    """A row of the ledger, and the name of its key, also of a deleted one; None if it was never known."""

    charge: Charge
    key_name: str | None


@dataclass(frozen=True, slots=True)
class ExplainedCharge:
    """A row of the ledger, how its amount comes about, and since when its price applied (us; None: from ever on)."""

    charge: Charge
    explanation: Explanation
    price_from_us: int | None
    key_name: str | None = None


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A decision whose log entry never came, and the id of the correction if it came after all."""

    charge: Charge
    corrected_by: str | None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What was used from the day `since` through the day `until`: one row for each group, and the sum of all.

    `key_names` holds the names of the keys in the rows, also of deleted ones.
    """

    since: str
    until: str
    rows: Sequence[UsageRow]
    total: Sums
    key_names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Archived:
    """How many rows were moved into which archive, and whether none is left that was admitted before its day."""

    archive: str
    rows: int
    complete: bool


class Books:
    """Looks into the ledger, and moves what is old out of it."""

    def __init__(self, store: Store, changes: Changes, *, calendar: Calendar) -> None:
        self._store = store
        self._changes = changes
        self._calendar = calendar

    async def list_charges(self, by: Actor, query: ChargeQuery) -> Page[ListedCharge]:
        """Return the charges that match, newest admission first; without an owner everybody's, for operators."""
        _check_look(by, query.owner)
        found = await self._store.list_charges(replace(query, limit=check_limit(query.limit) + 1))
        names = await self._store.key_names([charge.entry.key_id for charge in found])
        listed = [ListedCharge(charge, names.get(charge.entry.key_id)) for charge in found]
        return page_of(listed, query.limit, lambda item: item.charge.id)

    async def explain_charge(self, by: Actor, charge_id: str) -> ExplainedCharge:
        """Return a row of the ledger, of any kind, with its sum. Raises ChargeNotFound, also for hidden owners'."""
        charge = await self._store.charge(charge_id)
        if charge is None:
            raise ChargeNotFound(charge_id)
        try:
            check(by.who, Verb.LOOK, charge.entry.owner)
        except Hidden:
            raise ChargeNotFound(charge_id) from None
        history = await self._store.price_history(charge.entry.model)
        names = await self._store.key_names([charge.entry.key_id])
        told = price_from_us(history, charge)
        return ExplainedCharge(charge, explain(charge), told, names.get(charge.entry.key_id))

    async def list_unsettled(self, by: Actor, *, after: str | None, limit: int, settled_later: bool) -> Page[Unsettled]:
        """Return the decisions whose log entry never came, newest admission first, those after the id `after`.

        With `settled_later` also those whose entry came after all. For operators.
        """
        check_operator(by.who)
        one_more = check_limit(limit) + 1
        found = await self._store.list_unsettled(after=after, limit=one_more, settled_later=settled_later)
        rows = [Unsettled(charge, await self._correction(charge) if settled_later else None) for charge in found]
        return page_of(rows, limit, lambda row: row.charge.id)

    async def usage(
        self,
        by: Actor,
        *,
        owner: str | None = None,
        since: str | None = None,
        until: str | None = None,
        group_by: frozenset[Group] = frozenset(),
    ) -> UsageReport:
        """Return what an owner used, or without one everybody, for operators.

        Days are those of the billing zone; without `since` and `until` from this month's first day through today.
        """
        _check_look(by, owner)
        since, until = self._days(since, until)
        query = UsageQuery(since, until, owner, group_by, limit=MAX_GROUPS + 1)
        rows = await self._store.usage(query)
        if len(rows) > MAX_GROUPS:
            raise InvalidValue("group_by", f"gives more than {MAX_GROUPS:,} sums; ask for fewer days or groups")
        key_ids = [row.key_id for row in rows if row.key_id is not None]
        names = await self._store.key_names(key_ids) if key_ids else {}
        return UsageReport(since, until, rows, reduce(add, (row.sums for row in rows), Sums()), names)

    async def archive(self, by: Actor, *, before: str) -> Archived:
        """Move rows that were admitted before a day of the billing zone into the archive of that day. For operators.

        It stops, incomplete, after a few seconds: ask again then. Totals and usage stay as they are.
        """
        check_operator(by.who)
        day, now_us = _day("before", before), self._changes.clock()
        before_us = to_us(datetime(day.year, day.month, day.day, tzinfo=self._calendar.zone))
        if before_us > now_us:
            raise InvalidValue("before", "must not be in the future")
        picture = {"before": before}
        event = self._changes.event(
            by, Action.CHARGES_ARCHIVE, at_us=now_us, owner=by.name, subject="charges", after=picture
        )
        return await to_the_end(self._archive(by, before, before_us, event))

    async def _archive(self, by: Actor, day: str, before_us: int, event: AuditEvent) -> Archived:
        rows, told = 0, False
        async with self._changes.turn(by):
            for _ in range(_BATCHES):
                some = await self._store.archive_charges(before_us=before_us, name=day, event=None if told else event)
                if not some:
                    return Archived(day, rows, complete=True)
                rows, told = rows + some, True
        return Archived(day, rows, complete=False)

    def _days(self, since: str | None, until: str | None) -> tuple[str, str]:
        """Return the days that are asked for. Raises InvalidValue."""
        today = self._calendar.day(self._changes.clock())
        last = _day("until", until or today)
        first = _day("since", since or f"{min(today, last.isoformat())[:7]}-01")
        if first > last:
            raise InvalidValue("since", "must not be after until")
        if (last - first).days >= MAX_DAYS:
            raise InvalidValue("since", f"must be at most {MAX_DAYS} days before the end of until")
        return first.isoformat(), last.isoformat()

    async def _correction(self, unsettled: Charge) -> str | None:
        correction = await self._store.charge(correction_id(unsettled.entry))
        return None if correction is None else correction.id


def _check_look(by: Actor, owner: str | None) -> None:
    if owner is None:
        check_operator(by.who)
    else:
        check(by.who, Verb.LOOK, check_owner(owner))


def _day(field: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise InvalidValue(field, "must be a day such as 2030-12-31")
    return day
