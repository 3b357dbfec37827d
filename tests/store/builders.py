"""Keys and charges to test stores with. Each charge has a decision of its own unless told otherwise."""

import itertools
from dataclasses import replace
from uuid import UUID

from keytoll.core.ids import uuid7
from keytoll.core.keys import Key
from keytoll.core.ledger import Charge, Entry, Measured, Reported, settle, unsettled
from keytoll.core.pricing import Prices, Usage
from keytoll.core.quota import Quota
from keytoll.core.secrets import digest_of

NOW_US = 1_790_000_000_000_000
PRICES = Prices(
    input=4_000_000_000,
    output=12_000_000_000,
    cached_input=1_000_000_000,
    cache_write=5_000_000_000,
    audio_input=6_000_000_000,
    audio_output=7_000_000_000,
    request=1_000,
)
USAGE = Usage(input=11, cached_input=12, cache_write=13, output=14, audio_input=15, audio_output=16, reasoning=17)

_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    """Return a name that no other test has; names ascend."""
    return f"{prefix}{next(_numbers):08d}"


def make_key(*, owner: str = "users/alice", name: str | None = None, quota: Quota | None = None) -> Key:
    """Return a new key; ids ascend."""
    key_id = unique("key_")
    return Key(
        id=key_id,
        owner=owner,
        name=name or f"name of {key_id}",
        digest=digest_of(key_id),
        last4=key_id[-4:],
        quota=quota or Quota(),
        expires_at_us=None,
        created_at_us=NOW_US,
    )


def make_decision_id() -> UUID:
    """Return a decision id that no other test has."""
    return uuid7(NOW_US, next(_numbers).to_bytes(10))


def make_entry(
    *,
    key_id: str = "key_x",
    owner: str = "users/alice",
    month: str = "2026-09",
    admitted_at_us: int = NOW_US,
    status: int = 200,
    usage: Usage | None = USAGE,
    output_told: bool = True,
) -> Entry:
    """Return the entry of a new decision; `usage` is what its backend reported."""
    return Entry(
        decision_id=make_decision_id(),
        key_id=key_id,
        owner=owner,
        model="Qwen2.5-72B-Instruct",
        endpoint="chat/completions",
        price_id=PRICES.id,
        admitted_at_us=admitted_at_us,
        month=month,
        status=status,
        attempts=1,
        reported=None if usage is None else Reported(usage, output_told=output_told),
    )


def make_charge(
    amount_nano: int = 1,
    *,
    key_id: str = "key_x",
    owner: str = "users/alice",
    month: str = "2026-09",
    admitted_at_us: int = NOW_US,
) -> Charge:
    """Return the charge of a new decision, over the amount given."""
    entry = make_entry(key_id=key_id, owner=owner, month=month, admitted_at_us=admitted_at_us)
    return replace(settle(entry, PRICES, day="2026-09-21", settled_at_us=admitted_at_us + 5), amount_nano=amount_nano)


def make_unsettled(charge: Charge) -> Charge:
    """Return the row that gives up the charge's decision, with what was known at its admission."""
    entry = replace(charge.entry, status=0, attempts=0, reported=None, request_bytes=0, answer_bytes=0, events=None)
    return unsettled(entry, charge.prices, day="2026-09-21", settled_at_us=charge.settled_at_us)


def altered(charge: Charge, amount_nano: int = 999) -> Charge:
    """Return another entry under the same decision."""
    entry = replace(charge.entry, attempts=charge.entry.attempts + 1)
    return replace(charge, entry=entry, measured=Measured.REPORTED, amount_nano=amount_nano)
