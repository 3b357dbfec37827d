"""Posting a batch: the one place where charges and running totals are written, in one transaction.

The caller holds SQLite's write lock (BEGIN IMMEDIATE), so what is read here can't change before it is written.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from keytoll.core.ledger import Charge
from keytoll.core.money import add_totals
from keytoll.core.usage import Sums
from keytoll.store.base import Batch, Posted
from keytoll.store.sql import queries as shared
from keytoll.store.sql import rows, sums
from keytoll.store.sql.sifting import Known, sift
from keytoll.store.sql.sums import Account
from keytoll.store.sql.transactions import Transaction
from keytoll.store.sqlite import queries


async def post(transaction: Transaction, batch: Batch) -> Posted:
    """Post the batch within the open transaction. Raises OverflowError if a total would pass 64 bits."""
    known = await _known(transaction, [*batch.charges, *batch.unsettled])
    sifted = sift(batch, known)
    new, unsettled = tuple(sifted.new.values()), tuple(sifted.unsettled.values())
    spent_nano = await _add_to_totals(transaction, new)
    await _add_to_usage(transaction, new)
    await _insert(transaction, new, known.unsettled)
    await _insert_unsettled(transaction, unsettled)
    await transaction.repeat(queries.USE_KEY, sums.newest_admissions(new))
    # Each statement is a trip to the connection's thread and back, so those that seldom have rows are left out.
    if sifted.conflicts:
        await transaction.repeat(shared.INSERT_CONFLICT, map(rows.conflict_row, sifted.conflicts))
    if batch.rejected:
        await transaction.repeat(shared.INSERT_REJECTED, map(rows.rejected_row, batch.rejected))
    await transaction.repeat(shared.PUT_POSITION, ((p.file, p.offset) for p in batch.positions))
    ((revision,),) = await transaction.fetch(queries.REVISION)
    totals = sums.totals_of_keys(new, spent_nano)
    return Posted(revision, new, sifted.repeated, tuple(sifted.conflicts), totals, unsettled)


async def _known(transaction: Transaction, charges: Iterable[Charge]) -> Known:
    ids = [str(charge.entry.decision_id) for charge in charges]
    return Known.of(await transaction.fetch(queries.ROWS_OF_DECISIONS, {"decision_ids": json.dumps(ids)}))


async def _insert(transaction: Transaction, charges: Sequence[Charge], given_up: Mapping[str, str]) -> None:
    """Insert charges. Those of decisions that were given up refer to the row that says so, which is open no more."""
    # Rows are made by generators, which the connection's thread runs: a large batch must not hold up the event loop.
    if not given_up:
        await transaction.repeat(queries.INSERT_CHARGE, map(rows.charge_row, charges))
    else:
        refers_to = [given_up.get(str(charge.entry.decision_id)) for charge in charges]
        await transaction.repeat(queries.INSERT_CHARGE, map(rows.charge_row, charges, refers_to))
        await transaction.repeat(queries.CLOSE_UNSETTLED, ((id_,) for id_ in refers_to if id_ is not None))


async def _insert_unsettled(transaction: Transaction, unsettled: Sequence[Charge]) -> None:
    if not unsettled:
        return
    await transaction.repeat(queries.INSERT_CHARGE, map(rows.charge_row, unsettled))
    await transaction.repeat(queries.OPEN_UNSETTLED, ((row.id,) for row in unsettled))


async def _add_to_totals(transaction: Transaction, charges: Iterable[Charge]) -> Mapping[Account, int]:
    """Add the charges to their accounts, and return what each of these accounts has spent now."""
    added_nano = sums.by_account(charges)
    found = await transaction.fetch(queries.TOTALS, {"accounts": json.dumps(list(added_nano))})
    before_nano: dict[Account, int] = {(subject, month): nano for subject, month, nano in found}
    spent_nano = {account: add_totals(before_nano.get(account, 0), nano) for account, nano in added_nano.items()}
    await transaction.repeat(queries.PUT_TOTAL, ((*account, nano) for account, nano in spent_nano.items()))
    return spent_nano


async def _add_to_usage(transaction: Transaction, charges: Iterable[Charge]) -> None:
    """Add the charges to the sums of their owner, day, key and model."""
    added = sums.by_group(charges)
    found = await transaction.fetch(queries.USAGE_OF_GROUPS, {"groups": json.dumps(list(added))})
    before = dict(map(rows.usage_group, found))
    summed = {group: before.get(group, Sums()) + more for group, more in added.items()}
    await transaction.repeat(queries.PUT_USAGE, (rows.usage_group_row(*each) for each in summed.items()))
