"""The archive: old rows of the ledger, moved into a file of their own.

Totals and usage count them still, since those were written with them and are never added up anew. Of each row stays what
tells a late repeat of its entry from a new one. The file has the rows first, and for sure; only then they leave the store:
a crash in between leaves them in both, and to archive again mends that.
"""

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from keytoll.core.audit import AuditEvent
from keytoll.store.base import StoreUnavailable
from keytoll.store.sql import owning
from keytoll.store.sql.transactions import Transaction
from keytoll.store.sqlite import queries
from keytoll.store.sqlite.database import driver_errors


def copy(store: Path, archive: Path, decision_ids: Sequence[str]) -> int:
    """Copy all rows of the decisions into the archive, made if need be, and return how many it has of them.

    Blocks, so it is for a thread. Raises StoreUnavailable.
    """
    values = {"decision_ids": json.dumps(decision_ids)}
    with driver_errors(), closing(_opened(archive)) as connection:
        connection.execute("ATTACH ? AS store", (f"file:{quote(str(store))}?mode=ro",))
        connection.execute("PRAGMA main.synchronous = FULL")
        connection.execute("BEGIN")
        for statement in (queries.ARCHIVE_TABLE, queries.ARCHIVE_INDEX):
            connection.execute(statement)
        connection.execute(queries.ARCHIVE, values)
        ((rows,),) = connection.execute(queries.COUNT_ARCHIVED, values)
        connection.execute("COMMIT")
    return int(rows)


async def remove(
    transaction: Transaction,
    archive: Path,
    decision_ids: Sequence[str],
    *,
    copied: int,
    event: AuditEvent | None,
) -> int:
    """Remove what was copied within the open transaction, and return how many rows that were."""
    values = {"decision_ids": json.dumps(decision_ids), "archive": archive.name}
    noted = list(await transaction.fetch(queries.NOTE_ARCHIVED, values))
    if len(noted) != copied:
        raise StoreUnavailable(f"{archive} has {copied} of {len(noted)} rows that it should have")
    await transaction.fetch(queries.REMOVE_ARCHIVED, values)
    await owning.tell(transaction, [] if event is None else [event])
    return len(noted)


def _opened(archive: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(archive, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"can't open {archive}: {error.strerror}") from error
    return sqlite3.connect(f"file:{quote(str(archive))}", uri=True, isolation_level=None)
