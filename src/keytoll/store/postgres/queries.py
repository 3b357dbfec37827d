"""The SQL of the PostgreSQL store that the other store says in another way. What both say is in `store.sql.queries`.

Whatever locks several rows locks them in the order of their keys, so that no two transactions wait for each other.
"""

from keytoll.store.base import KeyQuery
from keytoll.store.sql import queries as shared

REVISION = "SELECT revision FROM ledger_revision"

NEXT_REVISION = "UPDATE ledger_revision SET revision = revision + 1 RETURNING revision"

# --- keys ---

USE_KEYS = """
WITH used AS (
    SELECT * FROM unnest(?::text[], ?::bigint[]) AS given (used_id, at_us)
), locked AS (
    SELECT id AS locked_id, at_us FROM keys JOIN used ON id = used_id ORDER BY id FOR NO KEY UPDATE OF keys
)
UPDATE keys SET last_used_at_us = GREATEST(last_used_at_us, at_us) FROM locked WHERE id = locked_id
"""

DELETE_KEYS_OF_OWNER = f"""
WITH locked AS (
    SELECT id AS locked_id FROM keys WHERE owner = :owner AND deleted_at_us IS NULL ORDER BY id FOR NO KEY UPDATE
), deleted AS (
    UPDATE keys SET deleted_at_us = :deleted_at_us FROM locked WHERE id = locked_id RETURNING {shared.KEY_COLUMNS}
)
SELECT {shared.KEY_COLUMNS} FROM deleted ORDER BY id
"""  # noqa: S608 - of constants alone

_STORED_KEY = shared.stored_key(object_of="json_object_agg", revision=REVISION)

KEY_BY_DIGEST = _STORED_KEY + shared.BY_DIGEST
KEY_BY_ID = _STORED_KEY + shared.BY_ID
KEY_TO_CHANGE = f"{shared.KEY_TO_CHANGE} FOR NO KEY UPDATE"
KEY_NAMES = "SELECT id, name FROM keys WHERE id = ANY(:key_ids)"


def list_keys(query: KeyQuery) -> str:
    """Return the statement with only the conditions that the query gives, in the order of an index."""
    return shared.list_keys(query, _STORED_KEY, position="strpos")


# --- owners ---

# Shared with others that rely on the owner's being there; whoever deletes it waits for all of them.
OWNER = "SELECT deleted_at_us FROM owners WHERE kind = :kind AND name = :name FOR SHARE"

_USERS = shared.users(object_of="json_object_agg")
USER = _USERS + shared.OF_NAME
LIST_USERS = _USERS + shared.PAGE_OF_NAMES

PERSON_BY_TOKEN = shared.person_by_token(object_of="json_object_agg")

REMOVE_MEMBERS = """
DELETE FROM members
WHERE organization = :name
    AND "user" IN (SELECT "user" FROM members WHERE organization = :name ORDER BY "user" FOR UPDATE)
"""

# Locked, so that of two admins who leave at once the second one finds itself to be the last.
TWO_ADMINS = """
SELECT "user" FROM members WHERE organization = :organization AND role = 'admin' ORDER BY "user" LIMIT 2 FOR UPDATE
"""

# --- the archive ---

# One at a time: two that make one table at once would get in each other's way.
ARCHIVE_ALONE = "SELECT pg_advisory_xact_lock(7738725075698609155)"

# An unsettled row stays until its correction has come, and then both go.
TO_ARCHIVE = """
SELECT decision_id FROM charges
WHERE kind <> 'unsettled' AND admitted_at_us < :before_us
ORDER BY admitted_at_us, seq
LIMIT :limit
"""

_OF_DECISIONS = "WHERE decision_id = ANY(:decision_ids::uuid[])"

ARCHIVE_TABLE = "CREATE TABLE IF NOT EXISTS {} (LIKE charges, PRIMARY KEY (seq))"
ARCHIVE = f"INSERT INTO {{}} SELECT * FROM charges {_OF_DECISIONS}"  # noqa: S608 - of constants alone

NOTE_ARCHIVED = f"""
INSERT INTO archived_charges (decision_id, kind, id, fingerprint, archive)
SELECT decision_id, kind, id, fingerprint, :archive FROM charges {_OF_DECISIONS}
RETURNING id
"""  # noqa: S608 - of constants alone

REMOVE_ARCHIVED = f"DELETE FROM charges {_OF_DECISIONS}"  # noqa: S608 - of constants alone

# --- posting ---

# Each half has an index of its own.
ROWS_OF_DECISIONS = """
SELECT decision_id, kind, id, fingerprint FROM charges
WHERE decision_id = ANY(:decision_ids::uuid[]) AND kind <> 'correction'
UNION ALL
SELECT decision_id, kind, id, fingerprint FROM charges
WHERE decision_id = ANY(:decision_ids::uuid[]) AND kind = 'correction'
UNION ALL
SELECT decision_id, kind, id, fingerprint FROM archived_charges
WHERE decision_id = ANY(:decision_ids::uuid[])
"""

_OTHER_TYPES = {
    **dict.fromkeys(("id", "kind", "day", "key_id", "owner", "model", "endpoint", "price_id", "month"), "text"),
    **dict.fromkeys(("uncharged_usage", "measured", "refers_to"), "text"),
    "decision_id": "uuid",
    "output_told": "boolean",
    "fingerprint": "bytea",
}


def _unnest(columns: str) -> str:
    """Return rows that are given as an array for each of the columns."""
    types = (_OTHER_TYPES.get(column, "bigint") for column in columns.replace(",", " ").split())
    return f"unnest({', '.join(f'?::{type_}[]' for type_ in types)})"


_CHARGE_ROW = f"{shared.CHARGE_COLUMNS}, fingerprint, refers_to"

# Another transaction may be posting one of the decisions: this one waits for it, and then finds out which rows are its own.
INSERT_CHARGES = f"""
INSERT INTO charges ({_CHARGE_ROW}) SELECT * FROM {_unnest(_CHARGE_ROW)}
ON CONFLICT DO NOTHING
RETURNING id
"""  # noqa: S608 - of constants alone

OPEN_UNSETTLED = """
INSERT INTO open_unsettled (open_seq, opened_at_us) SELECT seq, admitted_at_us FROM charges WHERE id = ANY(:ids)
"""

CLOSE_UNSETTLED = "DELETE FROM open_unsettled WHERE open_seq IN (SELECT seq FROM charges WHERE id = ANY(:ids))"

ADD_TOTALS = """
INSERT INTO totals AS kept (subject, month, spent_nano)
SELECT * FROM unnest(?::text[], ?::text[], ?::bigint[])
ON CONFLICT (subject, month) DO UPDATE SET spent_nano = kept.spent_nano + excluded.spent_nano
RETURNING subject, month, spent_nano
"""

_COUNTS = f"requests, {shared.CLASS_COLUMNS}, amount_nano"
_ADDED = ", ".join(f"{column} = kept.{column} + excluded.{column}" for column in _COUNTS.replace(",", " ").split())

ADD_USAGE = f"""
INSERT INTO usage AS kept (owner, day, key_id, model, {_COUNTS})
SELECT * FROM {_unnest(f"owner, day, key_id, model, {_COUNTS}")}
ON CONFLICT (owner, day, key_id, model) DO UPDATE SET {_ADDED}
"""  # noqa: S608 - of constants alone

# --- the ledger, prices and positions ---

SETTLED = """
SELECT decision_id FROM charges WHERE decision_id = ANY(:decision_ids::uuid[]) AND kind <> 'correction'
UNION ALL
SELECT decision_id FROM archived_charges WHERE decision_id = ANY(:decision_ids::uuid[])
"""

# Locked, known or not, so that two that note the same prices of a model do so one after the other.
INSERT_PRICES = shared.INSERT_PRICES + "ON CONFLICT (id) DO UPDATE SET id = excluded.id"

NOTE_PRICES = """
INSERT INTO price_versions (model, from_us, price_id, noted_at_us)
SELECT :model::text, :from_us::bigint, :price_id::text, :noted_at_us::bigint
WHERE :price_id IS DISTINCT FROM (
    SELECT price_id FROM price_versions WHERE model = :model AND from_us = :from_us ORDER BY seq DESC LIMIT 1
)
"""

FORGET_POSITIONS = "DELETE FROM journal_positions WHERE file = ANY(:files)"

# --- replicas ---

JOIN = """
INSERT INTO replicas AS known (id, epoch, expires_at, seen_seq)
VALUES (
    :replica, 1, clock_timestamp() + :lease_s * interval '1 second', (SELECT COALESCE(MAX(seq), 0) FROM key_changes)
)
ON CONFLICT (id) DO UPDATE
SET epoch = known.epoch + 1, expires_at = excluded.expires_at, seen_seq = excluded.seen_seq
RETURNING epoch, seen_seq
"""

# Of a replica that joins or leaves: what its holds don't need goes back. One that holds what can't be bounded keeps it all.
KEEP_GRANTS = """
WITH held AS (
    SELECT * FROM unnest(:key_ids::text[], :months::text[], :nanos::bigint[]) AS given (key_id, month, nano)
), gone AS (
    DELETE FROM grants
    WHERE replica = :replica
        AND NOT EXISTS (SELECT FROM held WHERE held.key_id = grants.key_id AND held.month = grants.month)
)
UPDATE grants
SET granted_nano = LEAST(granted_nano, nano), version = nextval('grant_versions'), changed_at = clock_timestamp()
FROM held
WHERE replica = :replica AND held.key_id = grants.key_id AND held.month = grants.month
RETURNING grants.key_id, grants.month, granted_nano, version
"""

# One statement, so that what it tells is not older than the lease that it extends.
RENEW = """
WITH renewed AS (
    UPDATE replicas
    SET expires_at = clock_timestamp() + :lease_s * interval '1 second', seen_seq = GREATEST(seen_seq, :seen)
    WHERE id = :replica AND epoch = :epoch AND expires_at > clock_timestamp()
    RETURNING id
), news AS (
    SELECT seq, key_id, digests FROM key_changes WHERE seq > :seen ORDER BY seq LIMIT :limit
)
SELECT
    (SELECT COUNT(*) FROM renewed),
    (SELECT epoch FROM replicas WHERE id = :replica),
    (SELECT COUNT(*) FROM replicas WHERE expires_at > clock_timestamp()),
    (SELECT COALESCE(MAX(seq), :seen) FROM news),
    (SELECT array_agg(key_id ORDER BY seq) FROM news),
    (SELECT array_agg(digests ORDER BY seq) FROM news)
"""

LEAVE = """
UPDATE replicas SET expires_at = clock_timestamp() WHERE id = :replica AND epoch = :epoch RETURNING id
"""

# Grants of a key are made one after another, and none while the key is being changed. It is not the key's row that is
# locked, for which charges would have to wait.
GRANTS_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended(:key_id, 7738725075698609157))"

# One snapshot for what is spent and what is granted: a charge changes both, and not their sum.
GRANTS_OF_KEY = f"""
SELECT
    stored.*,
    (SELECT SUM(granted_nano)::bigint FROM grants
        WHERE grants.key_id = stored.id AND month = :month AND replica = :replica),
    (SELECT SUM(granted_nano)::bigint FROM grants
        WHERE grants.key_id = stored.id AND (month = :month OR stored.quota_kind = 'total')
            AND (month, replica) <> (:month, :replica)),
    (SELECT COUNT(*) FROM replicas WHERE expires_at > clock_timestamp()),
    (SELECT COUNT(*) FROM replicas WHERE id = :replica AND epoch = :epoch AND expires_at > clock_timestamp())
FROM (SELECT) AS nothing
LEFT JOIN ({_STORED_KEY}{shared.BY_ID}) AS stored ON TRUE
"""  # noqa: S608 - of constants alone

ADD_GRANT = """
INSERT INTO grants AS kept (key_id, month, replica, granted_nano, version)
VALUES (:key_id, :month, :replica, :more_nano, nextval('grant_versions'))
ON CONFLICT (key_id, month, replica) DO UPDATE
SET granted_nano = kept.granted_nano + excluded.granted_nano, version = excluded.version,
    changed_at = clock_timestamp()
RETURNING granted_nano, version
"""

# Who joins anew waits for it, and so it never takes from what a later process of the replica holds.
STILL_MEMBER = "SELECT id FROM replicas WHERE id = :replica AND epoch = :epoch FOR SHARE"

# By `core.allowance.after_charges`, which is also what giving back comes to.
TAKE_FROM_GRANTS = """
WITH taken AS (
    SELECT * FROM unnest(:key_ids::text[], :months::text[], :nanos::bigint[]) AS given (key_id, month, nano)
), locked AS (
    SELECT key_id, month, nano FROM grants JOIN taken USING (key_id, month)
    WHERE replica = :replica ORDER BY key_id, month FOR UPDATE OF grants
)
UPDATE grants
SET granted_nano = GREATEST(0, granted_nano - nano), version = nextval('grant_versions'),
    changed_at = clock_timestamp()
FROM locked
WHERE replica = :replica AND grants.key_id = locked.key_id AND grants.month = locked.month
RETURNING grants.key_id, grants.month, granted_nano, version
"""

TELL = "SELECT pg_notify('keytoll', word) FROM unnest(:words::text[]) AS given (word)"

LAST_CHANGE = "SELECT COALESCE(MAX(seq), 0) FROM key_changes"

BEHIND = """
SELECT id, EXTRACT(EPOCH FROM expires_at - clock_timestamp())::float8 FROM replicas
WHERE seen_seq < :seq AND expires_at > clock_timestamp()
ORDER BY id
"""

# Whose requests are over: their journals are settled, or what they lack is unsettled.
SWEEP_REPLICAS = """
WITH dead AS (
    DELETE FROM replicas WHERE expires_at < clock_timestamp() - :longest_s * interval '1 second' RETURNING id
), gone AS (
    DELETE FROM grants WHERE replica IN (SELECT id FROM dead)
)
SELECT COUNT(*) FROM dead
"""
SWEEP_GRANTS = "DELETE FROM grants WHERE granted_nano = 0 AND changed_at < clock_timestamp() - interval '1 hour'"

# The newest one stays, so that its number is known.
SWEEP_CHANGES = """
DELETE FROM key_changes
WHERE at < clock_timestamp() - interval '1 hour' AND seq < (SELECT MAX(seq) FROM key_changes)
"""
