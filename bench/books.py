"""A store with as many keys and charges as asked for, written as SQL at once: through Keytoll it would take hours."""

import hashlib
import sqlite3
from pathlib import Path

from keytoll.core.secrets import KEY_PREFIX, digest_of, mint
from keytoll.store.sqlite import SqliteStore

NOW_US = 1_790_000_000_000_000
KEYS_OF_AN_OWNER = 100
_COUNT = "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)\n"
_KEYS = """
INSERT INTO keys (id, owner, name, folded_name, digest, last4, quota_kind, limit_nano, expires_at_us, created_at_us)
SELECT printf('key_%032x', i), printf('users/u%d', i / 100), printf('key %d', i), printf('key %d', i), randomblob(32), '0000', 'monthly',
       9000000000000000000, 4000000000000000, :now_us
FROM n
"""
_CHARGES = """
INSERT INTO charges (
    id, kind, day, decision_id, key_id, owner, model, endpoint, price_id, admitted_at_us, month, status, attempts,
    request_bytes, answer_bytes, input_byte_millitokens, output_byte_millitokens, event_millitokens, output_told,
    measured, amount_nano, settled_at_us, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
    audio_input_tokens, audio_output_tokens, reasoning_tokens, input_price_nano, cached_input_price_nano,
    cache_write_price_nano, output_price_nano, audio_input_price_nano, audio_output_price_nano, request_price_nano,
    fingerprint
)
SELECT printf('chg_%032x', i), 'charge', '2026-09-21', printf('%08x-0000-7000-8000-%012x', i / 1000, i), printf('key_%032x', i % :keys),
       printf('users/u%d', i % :keys / 100), 'bench', 'chat/completions', 'price_0', :now_us + i, '2026-09', 200, 1,
       400, 300, 250, 250, 1000, 1, 'reported', 1000, :now_us + i, 40, 0, 0, 24, 0, 0, 0, 1000000000, 1000000000,
       1000000000, 7000000000, 1000000000, 7000000000, 0, randomblob(32)
FROM n
"""

_TOTALS_OF_KEYS = """
INSERT INTO totals (subject, month, spent_nano)
SELECT id, month, 1000 FROM (SELECT '' AS month UNION ALL SELECT '2026-09') CROSS JOIN keys LIMIT 2 * :keys
"""


def key_id(number: int) -> str:
    """Return the id of a key."""
    return f"key_{number:032x}"


def secret_of(number: int) -> str:
    """Return the secret of a key that `fill` made with `known`."""
    return mint(KEY_PREFIX, hashlib.sha256(b"%d" % number).digest())


def charges_in(path: Path) -> int:
    """Return how many rows the ledger has, of a store that is in use."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        ((rows,),) = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM charges")
    finally:
        connection.close()
    return int(rows)


async def fill(path: Path, *, keys: int, known: int, charges: int = 0) -> None:
    """Make a store. Of `known` of its keys, spread over all, the secrets are those of `secret_of`."""
    await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(_COUNT + _KEYS, {"first": 0, "last": keys - 1, "now_us": NOW_US})
        connection.executemany(
            "UPDATE keys SET digest = ? WHERE id = ?",
            ((digest_of(secret_of(number)), key_id(number * (keys // known))) for number in range(known)),
        )
        connection.execute(_TOTALS_OF_KEYS, {"keys": keys})
        if charges:
            connection.execute(_COUNT + _CHARGES, {"first": 0, "last": charges - 1, "keys": keys, "now_us": NOW_US})
    connection.close()
