"""Posting a batch: the one place where charges and running totals are written, in one transaction.

The caller holds SQLite's write lock (BEGIN IMMEDIATE), so what is read here can't change before it is written.
"""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import aiosqlite

from keytoll.core.ledger import Charge, Kind, correction
from keytoll.core.money import add_totals
from keytoll.core.quota import Totals
from keytoll.core.usage import Sums
from keytoll.store.base import Batch, Posted
from keytoll.store.sqlite import queries, rows

_Account = tuple[str, str]
"""What a total counts for: a subject (the id of a key, or an owner) and a month or LIFETIME."""


_Group = tuple[str, str, str, str]
"""What usage is summed by: owner, day, key and model."""


async def post(connection: aiosqlite.Connection, batch: Batch) -> Posted:
    """Post the batch within the open transaction. Raises OverflowError if a total would pass 64 bits."""
    known = await _known(connection, [*batch.charges, *batch.unsettled])
    sifted = _sift(batch, known)
    new, unsettled = tuple(sifted.new.values()), tuple(sifted.unsettled.values())
    spent_nano = await _add_to_totals(connection, new)
    await _add_to_usage(connection, new)
    await _insert(connection, new, known.unsettled)
    await _insert_unsettled(connection, unsettled)
    await connection.executemany(queries.USE_KEY, _newest_admissions(new))
    # Each statement is a trip to the connection's thread and back, so those that seldom have rows are left out.
    if sifted.conflicts:
        await connection.executemany(queries.INSERT_CONFLICT, map(rows.conflict_row, sifted.conflicts))
    if batch.rejected:
        await connection.executemany(queries.INSERT_REJECTED, map(rows.rejected_row, batch.rejected))
    await connection.executemany(queries.PUT_POSITION, ((p.file, p.offset) for p in batch.positions))
    ((revision,),) = await connection.execute_fetchall(queries.REVISION)
    totals = _totals_of_keys(new, spent_nano)
    return Posted(revision, new, sifted.repeated, tuple(sifted.conflicts), totals, unsettled)


@dataclass(slots=True)
class _Known:
    """What the ledger holds by decision: the fingerprint of what settled it, the id of the row that gave it up."""

    settled: dict[str, bytes] = field(default_factory=dict)
    unsettled: dict[str, str] = field(default_factory=dict)


async def _known(connection: aiosqlite.Connection, charges: Iterable[Charge]) -> _Known:
    ids = [str(charge.entry.decision_id) for charge in charges]
    known = _Known()
    found = await connection.execute_fetchall(queries.ROWS_OF_DECISIONS, {"decision_ids": json.dumps(ids)})
    for decision_id, kind, id_, fingerprint in found:
        if kind == Kind.UNSETTLED:
            known.unsettled[decision_id] = id_
        else:
            known.settled[decision_id] = fingerprint
    return known


@dataclass(slots=True)
class _Sifted:
    """What is new by decision, and what is not."""

    new: dict[str, Charge] = field(default_factory=dict)
    unsettled: dict[str, Charge] = field(default_factory=dict)
    conflicts: list[Charge] = field(default_factory=list)
    repeated: int = 0


def _sift(batch: Batch, known: _Known) -> _Sifted:
    """Part the charges into new, repeated and conflicting ones, also among themselves: a decision's first wins."""
    sifted = _Sifted()
    for charge in batch.charges:
        decision_id = str(charge.entry.decision_id)
        if decision_id in known.settled:
            same = known.settled[decision_id] == charge.entry.fingerprint
        elif decision_id in sifted.new:
            same = sifted.new[decision_id].entry == charge.entry
        else:
            sifted.new[decision_id] = correction(charge) if decision_id in known.unsettled else charge
            continue
        if same:
            sifted.repeated += 1
        else:
            sifted.conflicts.append(charge)
    sifted.unsettled = _given_up(batch.unsettled, {*known.settled, *known.unsettled, *sifted.new})
    return sifted


def _given_up(unsettled: Iterable[Charge], with_a_row: Container[str]) -> dict[str, Charge]:
    by_decision = {str(row.entry.decision_id): row for row in unsettled}
    return {decision_id: row for decision_id, row in by_decision.items() if decision_id not in with_a_row}


async def _insert(connection: aiosqlite.Connection, charges: Sequence[Charge], given_up: Mapping[str, str]) -> None:
    """Insert charges. Those of decisions that were given up refer to the row that says so, which is open no more."""
    refers_to = [given_up.get(str(charge.entry.decision_id)) for charge in charges]
    # Rows are made by generators, which the connection's thread runs: a large batch must not hold up the event loop.
    await connection.executemany(queries.INSERT_CHARGE, map(rows.charge_row, charges, refers_to))
    if given_up:
        await connection.executemany(queries.CLOSE_UNSETTLED, ((id_,) for id_ in refers_to if id_ is not None))


async def _insert_unsettled(connection: aiosqlite.Connection, unsettled: Sequence[Charge]) -> None:
    if not unsettled:
        return
    await connection.executemany(queries.INSERT_CHARGE, map(rows.charge_row, unsettled))
    await connection.executemany(queries.OPEN_UNSETTLED, ((row.id,) for row in unsettled))


def _newest_admissions(charges: Iterable[Charge]) -> Iterable[Mapping[str, str | int]]:
    newest_us: dict[str, int] = {}
    for charge in charges:
        key_id, at_us = charge.entry.key_id, charge.entry.admitted_at_us
        newest_us[key_id] = max(at_us, newest_us.get(key_id, at_us))
    return [{"id": key_id, "at_us": at_us} for key_id, at_us in newest_us.items()]


async def _add_to_totals(connection: aiosqlite.Connection, charges: Iterable[Charge]) -> Mapping[_Account, int]:
    """Add the charges to their accounts, and return what each of these accounts has spent now."""
    added_nano = _sum_by_account(charges)
    found = await connection.execute_fetchall(queries.TOTALS, {"accounts": json.dumps(list(added_nano))})
    before_nano: dict[_Account, int] = {(subject, month): nano for subject, month, nano in found}
    spent_nano = {account: add_totals(before_nano.get(account, 0), nano) for account, nano in added_nano.items()}
    await connection.executemany(queries.PUT_TOTAL, ((*account, nano) for account, nano in spent_nano.items()))
    return spent_nano


def _sum_by_account(charges: Iterable[Charge]) -> Mapping[_Account, int]:
    added_nano: defaultdict[_Account, int] = defaultdict(int)
    for charge in charges:
        entry = charge.entry
        for account in ((entry.key_id, rows.LIFETIME), (entry.key_id, entry.month), (entry.owner, entry.month)):
            added_nano[account] += charge.amount_nano
    return added_nano


async def _add_to_usage(connection: aiosqlite.Connection, charges: Iterable[Charge]) -> None:
    """Add the charges to the sums of their owner, day, key and model."""
    added = _sum_by_group(charges)
    found = await connection.execute_fetchall(queries.USAGE_OF_GROUPS, {"groups": json.dumps(list(added))})
    before = dict(map(rows.usage_group, found))
    sums = {group: before.get(group, Sums()) + more for group, more in added.items()}
    await connection.executemany(queries.PUT_USAGE, (rows.usage_group_row(*summed) for summed in sums.items()))


def _sum_by_group(charges: Iterable[Charge]) -> Mapping[_Group, Sums]:
    groups: defaultdict[_Group, list[Charge]] = defaultdict(list)
    for charge in charges:
        entry = charge.entry
        groups[entry.owner, charge.day, entry.key_id, entry.model].append(charge)
    return {group: Sums.of(charges) for group, charges in groups.items()}


def _totals_of_keys(charges: Iterable[Charge], spent_nano: Mapping[_Account, int]) -> Mapping[str, Totals]:
    months: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for charge in charges:
        key_id, month = charge.entry.key_id, charge.entry.month
        months[key_id][month] = spent_nano[key_id, month]
    return {key_id: Totals(spent_nano[key_id, rows.LIFETIME], by_month) for key_id, by_month in months.items()}
