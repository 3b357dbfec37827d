"""All SQL of the SQLite store but its schema, which is in `migrations/`."""

from keytoll.store.base import ChargeQuery

REVISION = "SELECT COALESCE(MAX(seq), 0) FROM charges"

# --- keys ---

INSERT_KEY = """
INSERT INTO keys (
    id, owner, name, digest, last4, quota_kind, limit_nano, expires_at_us, created_at_us, created_by, disabled,
    allowed_models, allowed_networks, old_digest, old_valid_until_us
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING id
"""

UPDATE_KEY = """
UPDATE keys
SET name = :name, quota_kind = :quota_kind, limit_nano = :limit_nano, expires_at_us = :expires_at_us,
    disabled = :disabled, allowed_models = :allowed_models, allowed_networks = :allowed_networks
WHERE id = :id AND deleted_at_us IS NULL
RETURNING id
"""

ROTATE_KEY = """
UPDATE keys
SET digest = :digest, last4 = :last4, old_digest = :old_digest, old_valid_until_us = :old_valid_until_us
WHERE id = :id AND deleted_at_us IS NULL
RETURNING id
"""

USE_KEY = "UPDATE keys SET last_used_at_us = MAX(COALESCE(last_used_at_us, :at_us), :at_us) WHERE id = :id"

INSERT_ASKED = "INSERT INTO asked_once (id, fingerprint, key_id, at_us) VALUES (?, ?, ?, ?)"

FORGET_MOST_ASKED = "DELETE FROM asked_once WHERE seq <= (SELECT MAX(seq) FROM asked_once) - :kept"

FORGET_ASKED = "DELETE FROM asked_once WHERE at_us < :before_us"

ASKED = "SELECT id, fingerprint, key_id, at_us FROM asked_once WHERE id = :id"

DELETE_KEY = """
UPDATE keys SET deleted_at_us = :deleted_at_us WHERE id = :id AND deleted_at_us IS NULL RETURNING id
"""

# One statement, so that key, totals and revision are of one snapshot.
_STORED_KEY = """
SELECT
    id, owner, name, digest, last4, quota_kind, limit_nano, expires_at_us, created_at_us, created_by, disabled,
    allowed_models, allowed_networks, old_digest, old_valid_until_us, last_used_at_us,
    (SELECT json_group_object(month, spent_nano) FROM totals WHERE subject = keys.id),
    (SELECT COALESCE(MAX(seq), 0) FROM charges)
FROM keys
WHERE deleted_at_us IS NULL
"""

KEY_BY_DIGEST = _STORED_KEY + "AND (digest = :digest OR old_digest = :digest)"
KEY_BY_ID = _STORED_KEY + "AND id = :id"
LIST_KEYS = _STORED_KEY + "AND id > :after ORDER BY id LIMIT :limit"
LIST_KEYS_OF_OWNER = _STORED_KEY + "AND owner = :owner AND id > :after ORDER BY id LIMIT :limit"

# --- posting ---

ROWS_OF_DECISIONS = """
SELECT charges.decision_id, charges.kind, charges.id, charges.fingerprint
FROM json_each(:decision_ids) AS given
CROSS JOIN charges ON charges.decision_id = given.value
"""

_CHARGE_COLUMNS = """
    id, kind, decision_id, key_id, owner, model, endpoint, price_id, admitted_at_us, month, status, attempts,
    request_bytes, answer_bytes, events, hold_nano,
    input_byte_millitokens, output_byte_millitokens, event_millitokens,
    output_told, uncharged_usage,
    measured, amount_nano, settled_at_us,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, audio_input_tokens, audio_output_tokens,
    reasoning_tokens,
    input_price_nano, cached_input_price_nano, cache_write_price_nano, output_price_nano, audio_input_price_nano,
    audio_output_price_nano, request_price_nano
"""

INSERT_CHARGE = f"""
INSERT INTO charges ({_CHARGE_COLUMNS}, fingerprint, refers_to) VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    ?, ?, ?, ?,
    ?, ?, ?,
    ?, ?,
    ?, ?, ?,
    ?, ?, ?, ?, ?, ?,
    ?,
    ?, ?, ?, ?, ?,
    ?, ?,
    ?, ?
)
"""  # noqa: S608 - of constants alone

OPEN_UNSETTLED = """
INSERT INTO open_unsettled (open_seq, opened_at_us) SELECT seq, admitted_at_us FROM charges WHERE id = ?
"""

CLOSE_UNSETTLED = "DELETE FROM open_unsettled WHERE open_seq = (SELECT seq FROM charges WHERE id = ?)"

TOTALS = """
SELECT totals.subject, totals.month, totals.spent_nano
FROM json_each(:accounts) AS given
CROSS JOIN totals
    ON totals.subject = json_extract(given.value, '$[0]') AND totals.month = json_extract(given.value, '$[1]')
"""

PUT_TOTAL = """
INSERT INTO totals (subject, month, spent_nano) VALUES (?, ?, ?)
ON CONFLICT (subject, month) DO UPDATE SET spent_nano = excluded.spent_nano
"""

INSERT_REJECTED = "INSERT INTO rejected (reason, text, at_us) VALUES (?, ?, ?)"

INSERT_CONFLICT = """
INSERT INTO conflicts (decision_id, fingerprint, entry, at_us) VALUES (?, ?, ?, ?)
ON CONFLICT (decision_id, fingerprint) DO NOTHING
"""

PUT_POSITION = """
INSERT INTO journal_positions (file, offset_bytes) VALUES (?, ?)
ON CONFLICT (file) DO UPDATE SET offset_bytes = excluded.offset_bytes
"""

# --- the ledger, read ---

_CHARGES = f"SELECT {_CHARGE_COLUMNS} FROM charges\n"  # noqa: S608 - of constants alone

CHARGE = _CHARGES + "WHERE id = :id"


def list_charges(query: ChargeQuery) -> str:
    """Return the statement with only the conditions that the query gives, so that each uses its index."""
    conditions = {
        "AND owner = :owner\n": query.owner,
        "AND key_id = :key_id\n": query.key_id,
        "AND admitted_at_us >= :since_us\n": query.since_us,
        "AND (admitted_at_us, seq) < (SELECT admitted_at_us, seq FROM charges WHERE id = :after)\n": query.after,
    }
    given = "".join(condition for condition, value in conditions.items() if value is not None)
    return _CHARGES + "WHERE kind <> 'unsettled'\n" + given + "ORDER BY admitted_at_us DESC, seq DESC LIMIT :limit"


def list_unsettled(*, after: str | None, settled_later: bool) -> str:
    """Return the statement over all unsettled rows, or over the open ones."""
    statement, page, order = _ALL_UNSETTLED if settled_later else _OPEN_UNSETTLED
    return statement + ("" if after is None else page) + order


_ALL_UNSETTLED = (
    _CHARGES + "WHERE kind = 'unsettled'\n",
    "AND (admitted_at_us, seq) < (SELECT admitted_at_us, seq FROM charges WHERE id = :after)\n",
    "ORDER BY admitted_at_us DESC, seq DESC LIMIT :limit",
)
_OPEN_UNSETTLED = (
    f"SELECT {_CHARGE_COLUMNS} FROM open_unsettled CROSS JOIN charges ON seq = open_seq WHERE TRUE\n",  # noqa: S608
    "AND (opened_at_us, open_seq) < (SELECT admitted_at_us, seq FROM charges WHERE id = :after)\n",
    "ORDER BY opened_at_us DESC, open_seq DESC LIMIT :limit",
)

COUNT_UNSETTLED = "SELECT COUNT(*) FROM open_unsettled"

SETTLED = """
SELECT charges.decision_id
FROM json_each(:decision_ids) AS given
CROSS JOIN charges ON charges.decision_id = given.value
"""

OWNER_TOTALS = "SELECT month, spent_nano FROM totals WHERE subject = :owner AND month <> ''"

# --- prices and positions ---

INSERT_PRICES = """
INSERT INTO prices (
    id, input_price_nano, cached_input_price_nano, cache_write_price_nano, output_price_nano, audio_input_price_nano,
    audio_output_price_nano, request_price_nano
) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
"""

PRICES = """
SELECT
    input_price_nano, cached_input_price_nano, cache_write_price_nano, output_price_nano, audio_input_price_nano,
    audio_output_price_nano, request_price_nano
FROM prices
WHERE id = :id
"""

NOTE_PRICES = """
INSERT INTO price_versions (model, from_us, price_id, noted_at_us)
SELECT :model, :from_us, :price_id, :noted_at_us
WHERE :price_id IS NOT (
    SELECT price_id FROM price_versions WHERE model = :model AND from_us = :from_us ORDER BY seq DESC LIMIT 1
)
"""

PRICE_HISTORY = "SELECT from_us, price_id, noted_at_us FROM price_versions WHERE model = :model ORDER BY from_us, seq"

POSITIONS = "SELECT file, offset_bytes FROM journal_positions"

FORGET_POSITIONS = "DELETE FROM journal_positions WHERE file IN (SELECT value FROM json_each(:files))"

# --- the deployment ---

KEEP_CURRENCY = """
INSERT INTO deployment (name, value) VALUES ('currency', :currency)
ON CONFLICT (name) DO UPDATE SET value = value
RETURNING value
"""
