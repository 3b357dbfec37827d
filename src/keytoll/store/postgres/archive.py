"""The archive: old rows of the ledger, moved into a table of their own, which an operator may dump and drop.

Totals and usage count them still, since those were written with them and are never added up anew. Of each row stays what
tells a late repeat of its entry from a new one.
"""

import re

from keytoll.core.audit import AuditEvent
from keytoll.store.postgres import queries
from keytoll.store.sql import owning
from keytoll.store.sql.transactions import Transaction

_NAME = re.compile(r"[a-z0-9_-]{1,40}", re.ASCII)


async def archive(transaction: Transaction, *, before_us: int, limit: int, name: str, event: AuditEvent | None) -> int:
    """Move some rows that were admitted before an instant within the open transaction; return how many."""
    table = _table(name)
    await transaction.fetch(queries.ARCHIVE_ALONE)
    found = await transaction.fetch(queries.TO_ARCHIVE, {"before_us": before_us, "limit": limit})
    if not found:
        return 0
    decisions = {"decision_ids": [decision_id for (decision_id,) in found]}
    await transaction.fetch(queries.ARCHIVE_TABLE.format(table))
    await transaction.fetch(queries.ARCHIVE.format(table), decisions)
    noted = await transaction.fetch(queries.NOTE_ARCHIVED, {**decisions, "archive": table})
    await transaction.fetch(queries.REMOVE_ARCHIVED, decisions)
    await owning.tell(transaction, [] if event is None else [event])
    return len(noted)


def _table(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't name an archive")
    return f"archive_{name.replace('-', '_')}"
