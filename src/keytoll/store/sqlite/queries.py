"""The SQL of the SQLite store that the other store says in another way. What both say is in `store.sql.queries`."""

from keytoll.store.base import KeyQuery
from keytoll.store.sql import queries as shared

REVISION = "SELECT COALESCE(MAX(seq), 0) FROM charges"

# --- keys ---

USE_KEY = "UPDATE keys SET last_used_at_us = MAX(COALESCE(last_used_at_us, :at_us), :at_us) WHERE id = :id"

DELETE_KEYS_OF_OWNER = f"""
UPDATE keys SET deleted_at_us = :deleted_at_us
WHERE owner = :owner AND deleted_at_us IS NULL
RETURNING {shared.KEY_COLUMNS}
"""  # noqa: S608 - of constants alone

_STORED_KEY = shared.stored_key(object_of="json_group_object", revision=REVISION)

KEY_BY_DIGEST = _STORED_KEY + shared.BY_DIGEST
KEY_BY_ID = _STORED_KEY + shared.BY_ID
KEY_TO_CHANGE = shared.KEY_TO_CHANGE
KEY_NAMES = """
SELECT keys.id, keys.name FROM json_each(:key_ids) AS given CROSS JOIN keys ON keys.id = given.value
"""


def list_keys(query: KeyQuery) -> str:
    """Return the statement with only the conditions that the query gives, in the order of an index."""
    return shared.list_keys(query, _STORED_KEY, position="INSTR")


# --- owners ---

OWNER = "SELECT deleted_at_us FROM owners WHERE kind = :kind AND name = :name"

_USERS = shared.users(object_of="json_group_object")
USER = _USERS + shared.OF_NAME
LIST_USERS = _USERS + shared.PAGE_OF_NAMES

PERSON_BY_TOKEN = shared.person_by_token(object_of="json_group_object")

REMOVE_MEMBERS = "DELETE FROM members WHERE organization = :name"

TWO_ADMINS = "SELECT user FROM members WHERE organization = :organization AND role = 'admin' LIMIT 2"

# --- the archive ---

# The newest row stays: its number is the ledger's revision. So do rows that a correction may still come for.
TO_ARCHIVE = """
SELECT decision_id
FROM charges
WHERE kind <> 'unsettled' AND admitted_at_us < :before_us AND seq < (SELECT MAX(seq) FROM charges)
ORDER BY admitted_at_us
LIMIT :limit
"""

_OF_DECISIONS = "WHERE decision_id IN (SELECT value FROM json_each(:decision_ids))"

# In the archive's own file, where the store is attached as `store`.
ARCHIVE_TABLE = "CREATE TABLE IF NOT EXISTS main.charges AS SELECT * FROM store.charges WHERE FALSE"
ARCHIVE_INDEX = "CREATE UNIQUE INDEX IF NOT EXISTS main.charges_id ON charges (id)"
ARCHIVE = f"INSERT OR IGNORE INTO main.charges SELECT * FROM store.charges {_OF_DECISIONS}"  # noqa: S608
COUNT_ARCHIVED = f"SELECT COUNT(*) FROM main.charges {_OF_DECISIONS}"  # noqa: S608

NOTE_ARCHIVED = f"""
INSERT INTO archived_charges (decision_id, kind, id, fingerprint, archive)
SELECT decision_id, kind, id, fingerprint, :archive FROM charges {_OF_DECISIONS}
RETURNING id
"""  # noqa: S608

REMOVE_ARCHIVED = f"DELETE FROM charges {_OF_DECISIONS}"  # noqa: S608

# --- posting ---

ROWS_OF_DECISIONS = """
SELECT charges.decision_id, charges.kind, charges.id, charges.fingerprint
FROM json_each(:decision_ids) AS given
CROSS JOIN charges ON charges.decision_id = given.value
UNION ALL
SELECT archived.decision_id, archived.kind, archived.id, archived.fingerprint
FROM json_each(:decision_ids) AS given
CROSS JOIN archived_charges AS archived ON archived.decision_id = given.value
"""

INSERT_CHARGE = f"""
INSERT INTO charges ({shared.CHARGE_COLUMNS}, fingerprint, refers_to) VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
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

USAGE_OF_GROUPS = f"""
SELECT usage.owner, usage.day, usage.key_id, usage.model, requests, {shared.CLASS_COLUMNS}, amount_nano
FROM json_each(:groups) AS given
CROSS JOIN usage
    ON usage.owner = json_extract(given.value, '$[0]') AND usage.day = json_extract(given.value, '$[1]')
    AND usage.key_id = json_extract(given.value, '$[2]') AND usage.model = json_extract(given.value, '$[3]')
"""  # noqa: S608 - of constants alone

PUT_USAGE = f"""
INSERT OR REPLACE INTO usage (owner, day, key_id, model, requests, {shared.CLASS_COLUMNS}, amount_nano)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608 - of constants alone

# --- the ledger, prices and positions ---

SETTLED = """
SELECT charges.decision_id
FROM json_each(:decision_ids) AS given
CROSS JOIN charges ON charges.decision_id = given.value
UNION ALL
SELECT archived.decision_id
FROM json_each(:decision_ids) AS given
CROSS JOIN archived_charges AS archived ON archived.decision_id = given.value
"""

INSERT_PRICES = shared.INSERT_PRICES + "ON CONFLICT (id) DO NOTHING"

NOTE_PRICES = """
INSERT INTO price_versions (model, from_us, price_id, noted_at_us)
SELECT :model, :from_us, :price_id, :noted_at_us
WHERE :price_id IS NOT (
    SELECT price_id FROM price_versions WHERE model = :model AND from_us = :from_us ORDER BY seq DESC LIMIT 1
)
"""

FORGET_POSITIONS = "DELETE FROM journal_positions WHERE file IN (SELECT value FROM json_each(:files))"
