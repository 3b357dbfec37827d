"""Posting a batch: the one place where charges and running totals are written, in one transaction.

Others may post at the same time. All of them lock in one order: decisions, totals, usage, grants, keys, positions, each
sorted,
and the ledger's revision last, which is held for no longer than the commit takes.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from operator import itemgetter

from keytoll.core.ledger import Charge
from keytoll.store.base import Batch, KeyMonth, Posted
from keytoll.store.postgres import queries, replicas
from keytoll.store.sql import queries as shared
from keytoll.store.sql import rows, sums
from keytoll.store.sql.sifting import Known, Sifted, sift
from keytoll.store.sql.sums import Account
from keytoll.store.sql.transactions import Row, Transaction

_ROWS_AT_ONCE = 200
"""How many rows one statement inserts: more would hold up the event loop while they are made."""


async def post(transaction: Transaction, batch: Batch, *, replica: str | None) -> Posted:
    """Post the batch within the open transaction, for a replica if several share the store.

    Raises OverflowError if a total would pass 64 bits.
    """
    sifted = await _insert(transaction, batch)
    new, unsettled = tuple(sifted.new.values()), tuple(sifted.unsettled.values())
    spent_nano = await _add_to_totals(transaction, new)
    await _add_to_usage(transaction, new)
    grants = {} if replica is None else await replicas.take(transaction, replica=replica, amounts=_taken(batch, new))
    await _use_keys(transaction, new)
    await transaction.repeat(shared.INSERT_CONFLICT, _sorted(map(rows.conflict_row, sifted.conflicts)))
    await transaction.repeat(shared.INSERT_REJECTED, map(rows.rejected_row, batch.rejected))
    positions = {position.file: position.offset for position in batch.positions}
    await transaction.repeat(shared.PUT_POSITION, sorted(positions.items()))
    ((revision,),) = await transaction.fetch(queries.NEXT_REVISION if new or unsettled else queries.REVISION)
    totals = sums.totals_of_keys(new, spent_nano)
    return Posted(revision, new, sifted.repeated, tuple(sifted.conflicts), totals, unsettled, grants)


async def _insert(transaction: Transaction, batch: Batch) -> Sifted:
    """Insert what is new, and return that.

    Where another transaction got ahead with a decision, that one's row is there by now, and the batch is sifted again.
    A decision has two rows at most, so this comes to its end.
    """
    own: set[str] = set()
    while True:
        known = await _known(transaction, batch, but=own)
        sifted = sift(batch, known)
        new, unsettled = ({id_: each[id_] for id_ in sorted(each)} for each in (sifted.new, sifted.unsettled))
        fresh = [charge for charge in (*new.values(), *unsettled.values()) if charge.id not in own]
        inserted = await _insert_rows(transaction, fresh, known.unsettled)
        own |= inserted
        if len(inserted) == len(fresh):
            break
    corrected = [known.unsettled[decision_id] for decision_id in sifted.new if decision_id in known.unsettled]
    await transaction.fetch(queries.CLOSE_UNSETTLED, {"ids": corrected})
    await transaction.fetch(queries.OPEN_UNSETTLED, {"ids": [row.id for row in sifted.unsettled.values()]})
    return sifted


async def _known(transaction: Transaction, batch: Batch, *, but: Container[str]) -> Known:
    """Return what others have posted of the decisions."""
    ids = [str(charge.entry.decision_id) for charge in (*batch.charges, *batch.unsettled)]
    found = await transaction.fetch(queries.ROWS_OF_DECISIONS, {"decision_ids": ids}) if ids else ()
    return Known.of(row for row in found if row[2] not in but)


async def _insert_rows(transaction: Transaction, charges: Sequence[Charge], given_up: Mapping[str, str]) -> set[str]:
    """Insert rows, those of decisions that were given up with the row that says so; return the ids of those that are new."""
    inserted: set[str] = set()
    for start in range(0, len(charges), _ROWS_AT_ONCE):
        some = charges[start : start + _ROWS_AT_ONCE]
        refers_to = (given_up.get(str(charge.entry.decision_id)) for charge in some)
        columns = _columns(map(rows.charge_row, some, refers_to))
        inserted.update(id_ for (id_,) in await transaction.fetch(queries.INSERT_CHARGES, columns))
    return inserted


async def _add_to_totals(transaction: Transaction, charges: Sequence[Charge]) -> Mapping[Account, int]:
    """Add the charges to their accounts, and return what each of these accounts has spent now."""
    added_nano = sums.by_account(charges)
    if not added_nano:
        return {}
    columns = _columns((*account, nano) for account, nano in sorted(added_nano.items()))
    found = await transaction.fetch(queries.ADD_TOTALS, columns)
    return {(subject, month): nano for subject, month, nano in found}


async def _add_to_usage(transaction: Transaction, charges: Sequence[Charge]) -> None:
    """Add the charges to the sums of their owner, day, key and model."""
    added = sums.by_group(charges)
    if added:
        await transaction.fetch(
            queries.ADD_USAGE, _columns(rows.usage_group_row(group, added[group]) for group in sorted(added))
        )


async def _use_keys(transaction: Transaction, charges: Sequence[Charge]) -> None:
    used = [(key["id"], key["at_us"]) for key in sums.newest_admissions(charges)]
    if used:
        await transaction.fetch(queries.USE_KEYS, _columns(used))


def _taken(batch: Batch, new: Iterable[Charge]) -> Iterable[tuple[KeyMonth, int]]:
    """Return what new charges take from the grants that covered them, 0 for other entries: they tell what is left."""
    amounts: dict[KeyMonth, int] = {}
    for charge in (*batch.charges, *batch.unsettled):
        amounts.setdefault(KeyMonth(charge.entry.key_id, charge.entry.month), 0)
    for charge in new:
        amounts[KeyMonth(charge.entry.key_id, charge.entry.month)] += charge.amount_nano
    return amounts.items()


def _columns(given: Iterable[Row]) -> Row:
    """Return an array for each column of some rows."""
    return list(zip(*given, strict=True))


def _sorted(given: Iterable[Row]) -> list[Row]:
    return sorted(given, key=itemgetter(0, 1))
