"""Core's values to the rows of the SQLite store, and back. The order of a row is that of its statement in `queries`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Any
from uuid import UUID

from keytoll.core.keys import Key
from keytoll.core.ledger import Charge, Entry, Measured
from keytoll.core.pricing import Prices, Usage
from keytoll.core.quota import Quota, QuotaKind, Totals
from keytoll.store.base import Rejected, StoredKey

Row = Sequence[Any]

LIFETIME = ""
"""What stands for the month in a total of a key's whole life."""

_USAGE = ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output", "reasoning")
_PRICES = ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output", "request")
_usage_row = attrgetter(*_USAGE)
_unit_prices = attrgetter(*_PRICES)


def key_row(key: Key) -> Row:
    """Return the row that INSERT_KEY takes."""
    quota = (key.quota.kind.value, key.quota.limit_nano)
    return (key.id, key.owner, key.name, key.digest, key.last4, *quota, key.expires_at_us, key.created_at_us)


def stored_key(row: Row) -> StoredKey:
    """Return the key with its totals."""
    id_, owner, name, digest, last4, kind, limit_nano, expires_at_us, created_at_us, totals, revision = row
    key = Key(
        id=id_,
        owner=owner,
        name=name,
        digest=digest,
        last4=last4,
        quota=Quota(QuotaKind(kind), limit_nano),
        expires_at_us=expires_at_us,
        created_at_us=created_at_us,
    )
    by_month = json.loads(totals)
    return StoredKey(key, Totals(by_month.pop(LIFETIME, 0), by_month), revision)


def charge_row(charge: Charge) -> Row:
    """Return the row that INSERT_CHARGE takes."""
    entry = charge.entry
    return (
        charge.id,
        str(entry.decision_id),
        entry.key_id,
        entry.owner,
        entry.model,
        entry.endpoint,
        entry.price_id,
        entry.admitted_at_us,
        entry.month,
        entry.status,
        entry.attempts,
        _uncharged_usage(charge),
        charge.measured.value,
        charge.amount_nano,
        charge.settled_at_us,
        *_usage_row(charge.usage),
        *_unit_prices(charge.prices),
        entry.fingerprint,
    )


def charge(row: Row) -> Charge:
    """Return the charge as it was posted."""
    usage = Usage(**dict(zip(_USAGE, row[15:22], strict=True)))
    measured = Measured(row[12])
    entry = Entry(
        decision_id=UUID(row[1]),
        key_id=row[2],
        owner=row[3],
        model=row[4],
        endpoint=row[5],
        price_id=row[6],
        admitted_at_us=row[7],
        month=row[8],
        status=row[9],
        attempts=row[10],
        usage=_entry_usage(row[11], measured, usage),
    )
    return Charge(
        id=row[0],
        entry=entry,
        prices=prices(row[22:29]),
        usage=usage,
        measured=measured,
        amount_nano=row[13],
        settled_at_us=row[14],
    )


def _uncharged_usage(charge: Charge) -> str | None:
    implied = charge.usage if charge.measured is Measured.REPORTED else None
    reported = charge.entry.usage
    return None if reported == implied else json.dumps(reported and asdict(reported))


def _entry_usage(uncharged: str | None, measured: Measured, usage: Usage) -> Usage | None:
    if uncharged is None:
        return usage if measured is Measured.REPORTED else None
    reported = json.loads(uncharged)
    return reported and Usage(**reported)


def conflict_row(charge: Charge) -> Row:
    """Return the row that INSERT_CONFLICT takes."""
    entry = charge.entry
    return str(entry.decision_id), entry.fingerprint, json.dumps(asdict(entry), default=str), charge.settled_at_us


def rejected_row(rejected: Rejected) -> Row:
    """Return the row that INSERT_REJECTED takes.

    What can't be UTF-8 is escaped: an entry that can't be kept would come again for ever, and hold up all that follow.
    """
    text = rejected.text.encode("utf-8", "backslashreplace").decode("utf-8")
    return rejected.reason, text, rejected.at_us


def prices_row(prices: Prices) -> Row:
    """Return the row that INSERT_PRICES takes."""
    return (prices.id, *_unit_prices(prices))


def prices(row: Row) -> Prices:
    """Return the price version."""
    return Prices(**dict(zip(_PRICES, row, strict=True)))
