"""The ledger after a fuzz: each row, and the totals, against what the entries told."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from fuzz.judging import Told, facts_of, may_cost
from keytoll.core.ledger import Charge
from keytoll.store.base import ChargeQuery, Store


async def rows_of(store: Store) -> list[Charge]:
    """Return every charge."""
    return list(await store.list_charges(ChargeQuery(limit=10_000_000)))


def judge_rows(rows: Iterable[Charge], told: Iterable[Told]) -> None:
    """Fail if a row is of no entry that may be charged, or of an amount that its entry doesn't allow."""
    allowed = defaultdict(list)
    for one in told:
        allowed[one.facts].append(one)
    for row in rows:
        facts = facts_of(row)
        assert facts in allowed, f"charged from garbage: {row}"
        assert row.amount_nano >= 0
        assert any(may_cost(row, one) for one in allowed[facts]), f"a wrong amount: {row}"


def judge_totals(rows: Iterable[Charge], database: Path) -> None:
    """Fail unless the running totals are the sums of the rows."""
    sums: Counter[tuple[str, str]] = Counter()
    for row in rows:
        entry = row.entry
        for account in ((entry.key_id, ""), (entry.key_id, entry.month), (entry.owner, entry.month)):
            sums[account] += row.amount_nano
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = connection.execute("SELECT subject, month, spent_nano FROM totals").fetchall()
    connection.close()
    assert {(subject, month): nano for subject, month, nano in found} == dict(sums)
