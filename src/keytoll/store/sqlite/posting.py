"""Posting a batch: the one place where charges and running totals are written, in one transaction.

The caller holds SQLite's write lock (BEGIN IMMEDIATE), so what is read here can't change before it is written.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import aiosqlite

from keytoll.core.ledger import Charge
from keytoll.core.money import add_totals
from keytoll.core.quota import Totals
from keytoll.store.base import Batch, Posted
from keytoll.store.sqlite import queries, rows

_Account = tuple[str, str]
"""What a total counts for: a subject (the id of a key, or an owner) and a month or LIFETIME."""


async def post(connection: aiosqlite.Connection, batch: Batch) -> Posted:
    """Post the batch within the open transaction. Raises OverflowError if a total would pass 64 bits."""
    sifted = await _sift(connection, batch.charges)
    new = tuple(sifted.new.values())
    spent_nano = await _add_to_totals(connection, new)
    # Rows are made by generators, which the connection's thread runs: a large batch must not hold up the event loop.
    await connection.executemany(queries.INSERT_CHARGE, map(rows.charge_row, new))
    await connection.executemany(queries.INSERT_CONFLICT, map(rows.conflict_row, sifted.conflicts))
    await connection.executemany(queries.INSERT_REJECTED, map(rows.rejected_row, batch.rejected))
    await connection.executemany(queries.PUT_POSITION, ((p.file, p.offset) for p in batch.positions))
    ((revision,),) = await connection.execute_fetchall(queries.REVISION)
    return Posted(revision, new, sifted.repeated, tuple(sifted.conflicts), _totals_of_keys(new, spent_nano))


@dataclass(slots=True)
class _Sifted:
    new: dict[str, Charge] = field(default_factory=dict)
    conflicts: list[Charge] = field(default_factory=list)
    repeated: int = 0


async def _sift(connection: aiosqlite.Connection, charges: Sequence[Charge]) -> _Sifted:
    """Part the charges into new, repeated and conflicting ones, also among themselves: a decision's first wins."""
    ids = [str(charge.entry.decision_id) for charge in charges]
    found = await connection.execute_fetchall(queries.FINGERPRINTS, {"decision_ids": json.dumps(ids)})
    fingerprints: dict[str, bytes] = dict(map(tuple, found))
    sifted = _Sifted()
    for decision_id, charge in zip(ids, charges, strict=True):
        if decision_id in fingerprints:
            same = fingerprints[decision_id] == charge.entry.fingerprint
        elif decision_id in sifted.new:
            same = sifted.new[decision_id].entry == charge.entry
        else:
            sifted.new[decision_id] = charge
            continue
        if same:
            sifted.repeated += 1
        else:
            sifted.conflicts.append(charge)
    return sifted


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


def _totals_of_keys(charges: Iterable[Charge], spent_nano: Mapping[_Account, int]) -> Mapping[str, Totals]:
    months: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for charge in charges:
        key_id, month = charge.entry.key_id, charge.entry.month
        months[key_id][month] = spent_nano[key_id, month]
    return {key_id: Totals(spent_nano[key_id, rows.LIFETIME], by_month) for key_id, by_month in months.items()}
