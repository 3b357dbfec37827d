"""The ledger as its database has it, read beside the store by plain SQL."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from simulation.model import Limit, Row
from simulation.scenery import SimulatedKey

_PRICES = ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output", "request")
_ROWS = f"""
SELECT c.seq, c.kind, c.decision_id, c.key_id, c.owner, c.month, c.amount_nano, c.measured, c.status, c.attempts,
    (SELECT r.kind FROM charges AS r WHERE r.id = c.refers_to AND r.decision_id = c.decision_id),
    {", ".join(f"c.{name}_price_nano" for name in _PRICES)}
FROM charges AS c WHERE c.seq > ? ORDER BY c.seq
"""
_SUMMED = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "reasoning_tokens",
    "amount_nano",
)
_INSERT_KEY = """
INSERT INTO keys (id, owner, name, digest, last4, quota_kind, limit_nano, expires_at_us, created_at_us, folded_name)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, '')
"""


def _row(*values: Any) -> Row:
    kind, decision, key, owner, month, amount_nano, measured, status, attempts, refers_to_kind, *prices = values
    return Row(
        kind=kind,
        decision=str(decision),
        key=key,
        owner=owner,
        month=month,
        amount_nano=amount_nano,
        measured=measured,
        status=status,
        attempts=attempts,
        price=dict(zip(_PRICES, prices, strict=True)),
        refers_to_kind=refers_to_kind,
    )


class Connection(Protocol):
    """A connection to either database, that of the `sqlite3` module or `simulation.postgres`."""

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Any:
        """Run a statement."""

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Run a statement for each of the rows."""

    def close(self) -> None:
        """Close it."""


class Ledger:
    """What a connection of its own to the store's database reads."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._seen = 0

    def add_keys(self, keys: "Iterable[tuple[SimulatedKey, Limit, int | None]]") -> None:
        """Put keys there in one transaction: one at a time would take most of the run."""
        self._db.execute("BEGIN")
        self._db.executemany(
            _INSERT_KEY,
            (
                (key.id, key.owner, key.id, key.digest, key.secret[-4:], limit.kind, limit.nano, expires_at_us)
                for key, limit, expires_at_us in keys
            ),
        )
        self._db.execute("COMMIT")

    def new_rows(self) -> list[Row]:
        """Return the rows that were not returned before."""
        found = self._db.execute(_ROWS, (self._seen,)).fetchall()
        if found:
            self._seen = found[-1][0]
        return [_row(*values) for _, *values in found]

    def key(self, key_id: str) -> tuple[Limit, bool]:
        """Return the quota of a key and whether it is deleted."""
        ((kind, nano, deleted_at_us),) = self._db.execute(
            "SELECT quota_kind, limit_nano, deleted_at_us FROM keys WHERE id = ?", (key_id,)
        ).fetchall()
        return Limit(kind, nano), deleted_at_us is not None

    def totals(self, subject: str) -> dict[str, int]:
        """Return the running totals of a key or an owner, by month; a key's whole life under ""."""
        return dict(self._db.execute("SELECT month, spent_nano FROM totals WHERE subject = ?", (subject,)).fetchall())

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        ((count,),) = self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchall()
        return int(count)

    def usage_differs(self) -> bool:
        """Return whether the sums of usage are others than those of the rows, or a row's day is not of its month."""
        sums = ", ".join(f"SUM({column})" for column in _SUMMED)
        of_rows = f"SELECT owner, day, key_id, model, COUNT(*), {sums} FROM charges"
        of_rows += " WHERE kind <> 'unsettled' GROUP BY owner, day, key_id, model"
        kept = f"SELECT owner, day, key_id, model, requests, {', '.join(_SUMMED)} FROM usage"
        found = [
            self._db.execute(f"{one} EXCEPT {other}").fetchone() for one, other in ((of_rows, kept), (kept, of_rows))
        ]
        strays = self._db.execute("SELECT 1 FROM charges WHERE substr(day, 1, 7) <> month LIMIT 1").fetchone()
        return any((*found, strays))

    def worst_total(self) -> int:
        """Return the least of all amounts and totals."""
        least = "SELECT MIN(v) FROM (SELECT spent_nano AS v FROM totals UNION ALL SELECT amount_nano FROM charges)"
        return int(self._db.execute(least).fetchone()[0] or 0)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()
