"""Statements that both databases understand. What only one does is in its own `queries`, the schema in its `migrations/`."""

from keytoll.core.keys import KeyStatus
from keytoll.core.usage import Group
from keytoll.store.base import AuditQuery, ChargeQuery, KeyQuery, KeySort, UsageQuery

# --- keys ---

KEY_COLUMNS = """
    id, owner, name, digest, last4, quota_kind, limit_nano, expires_at_us, created_at_us, created_by, disabled,
    allowed_models, allowed_networks, old_digest, old_valid_until_us
"""

INSERT_KEY = f"""
INSERT INTO keys ({KEY_COLUMNS}, folded_name) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING id
"""  # noqa: S608 - of constants alone

UPDATE_KEY = """
UPDATE keys
SET name = :name, folded_name = :folded_name, quota_kind = :quota_kind, limit_nano = :limit_nano, expires_at_us = :expires_at_us,
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

INSERT_ASKED = """
INSERT INTO asked_once (id, fingerprint, key_id, at_us) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING id
"""

FORGET_MOST_ASKED = "DELETE FROM asked_once WHERE seq <= (SELECT MAX(seq) FROM asked_once) - :kept"

FORGET_ASKED = "DELETE FROM asked_once WHERE at_us < :before_us"

ASKED = "SELECT id, fingerprint, key_id, at_us FROM asked_once WHERE id = :id"

DELETE_KEY = """
UPDATE keys SET deleted_at_us = :deleted_at_us WHERE id = :id AND deleted_at_us IS NULL RETURNING id
"""


def stored_key(*, object_of: str, revision: str) -> str:
    """Return the statement that reads keys with their totals. It is one, so that all of it is of one snapshot.

    `object_of` is the function that makes a JSON object of names and values.
    """
    return f"""
SELECT
    {KEY_COLUMNS}, last_used_at_us,
    (SELECT {object_of}(month, spent_nano) FROM totals WHERE subject = keys.id),
    ({revision})
FROM keys
WHERE deleted_at_us IS NULL
"""  # noqa: S608 - of constants alone


KEY_TO_CHANGE = f"SELECT {KEY_COLUMNS} FROM keys WHERE id = :id AND deleted_at_us IS NULL"  # noqa: S608 - of constants alone

BY_DIGEST = "AND (digest = :digest OR old_digest = :digest)"
BY_ID = "AND id = :id"
KEY_NAMED = "SELECT id FROM keys WHERE owner = :owner AND name = :name AND deleted_at_us IS NULL"


def list_keys(query: KeyQuery, stored_key: str, *, position: str) -> str:
    """Return the statement with only the conditions that the query gives, in the order of an index.

    `position` is the function that tells where a text is in another.
    """
    column, (follows, direction) = _SORTED_BY[query.sort], ("<", "DESC") if query.descending else (">", "ASC")
    ordered = [column, "id"] if column != "id" else ["id"]
    conditions = {
        "AND owner = :owner\n": query.owner,
        f"AND {position}(folded_name, :text) > 0\n": query.text,
        f"AND {_STANDS.get(query.status or KeyStatus.ACTIVE)}\n": query.status,
        "AND quota_kind = :quota\n": query.quota,
        f"AND ({', '.join(ordered)}) {follows} ({', '.join(_after(column, query.owner))})\n": query.after,
    }
    given = "".join(condition for condition, value in conditions.items() if value is not None)
    order = ", ".join(f"{column} {direction}" for column in ordered)
    return f"{stored_key}{given}ORDER BY {order} LIMIT :limit"


def _after(column: str, owner: str | None) -> list[str]:
    """Return where a page begins: behind a key as it was listed, or as it is where that can't have moved it much.

    Another owner's key is behind none: where a page began would tell how its name and its expiry compare.
    """
    if column == "id":
        return [":after"]
    if column == "used_at_us":
        return [":after_us", ":after"]
    owned = "" if owner is None else " AND owner = :owner"
    return [f"(SELECT {column} FROM keys WHERE id = :after{owned})", ":after"]  # noqa: S608 - of constants alone


_SORTED_BY = {
    KeySort.CREATED_AT: "id",  # which begins with the time
    KeySort.NAME: "folded_name",
    KeySort.EXPIRES_AT: "ends_at_us",
    KeySort.LAST_USED_AT: "used_at_us",
}

_EXPIRED = "ends_at_us <= :now_us"
_SPENT = """COALESCE(limit_nano <= COALESCE((
    SELECT spent_nano FROM totals
    WHERE subject = keys.id AND month = CASE quota_kind WHEN 'monthly' THEN :month ELSE '' END
), 0), FALSE)"""
_STANDS = {
    KeyStatus.DISABLED: "disabled",
    KeyStatus.EXPIRED: f"NOT disabled AND {_EXPIRED}",
    KeyStatus.SPENT: f"NOT disabled AND NOT {_EXPIRED} AND {_SPENT}",
    KeyStatus.ACTIVE: f"NOT disabled AND NOT {_EXPIRED} AND NOT {_SPENT}",
}

# --- owners ---

INSERT_OWNER = "INSERT INTO owners (kind, name, created_at_us) VALUES (:kind, :name, :created_at_us)"

DELETE_OWNER = """
UPDATE owners SET deleted_at_us = :deleted_at_us
WHERE kind = :kind AND name = :name AND deleted_at_us IS NULL
RETURNING name
"""


def users(*, object_of: str) -> str:
    """Return the statement that reads people, with a JSON object of their roles."""
    return f"""
SELECT
    owners.name, owners.created_at_us, access_tokens.digest, access_tokens.last4, access_tokens.created_at_us,
    (SELECT {object_of}(organization, role) FROM members WHERE members."user" = owners.name)
FROM owners LEFT JOIN access_tokens ON access_tokens."user" = owners.name
WHERE owners.kind = 'users' AND owners.deleted_at_us IS NULL
"""  # noqa: S608 - of constants alone


OF_NAME = "AND owners.name = :name"
PAGE_OF_NAMES = "AND owners.name > :after ORDER BY owners.name LIMIT :limit"

_ORGANIZATIONS = """
SELECT
    owners.name, owners.created_at_us,
    (SELECT COUNT(*) FROM members WHERE members.organization = owners.name)
FROM owners
WHERE owners.kind = 'organizations' AND owners.deleted_at_us IS NULL
"""
ORGANIZATION = _ORGANIZATIONS + OF_NAME
LIST_ORGANIZATIONS = _ORGANIZATIONS + PAGE_OF_NAMES
LIST_ORGANIZATIONS_OF_USER = """
SELECT
    owners.name, owners.created_at_us,
    (SELECT COUNT(*) FROM members AS all_members WHERE all_members.organization = owners.name)
FROM members CROSS JOIN owners
WHERE owners.kind = 'organizations' AND owners.name = members.organization
    AND members."user" = :of AND members.organization > :after
ORDER BY members.organization
LIMIT :limit
"""


def person_by_token(*, object_of: str) -> str:
    """Return the statement that reads whose token it is, with a JSON object of their roles."""
    return f"""
SELECT "user", (SELECT {object_of}(organization, role) FROM members WHERE members."user" = access_tokens."user")
FROM access_tokens
WHERE digest = :digest
"""  # noqa: S608 - of constants alone


PUT_TOKEN = """
INSERT INTO access_tokens ("user", digest, last4, created_at_us) VALUES (?, ?, ?, ?)
ON CONFLICT ("user") DO UPDATE
SET digest = excluded.digest, last4 = excluded.last4, created_at_us = excluded.created_at_us
"""  # noqa: S105

DROP_TOKEN = 'DELETE FROM access_tokens WHERE "user" = :user RETURNING "user"'  # noqa: S105

MEMBER = 'SELECT "user", role, added_at_us FROM members WHERE organization = :organization AND "user" = :user'

LIST_MEMBERS = """
SELECT "user", role, added_at_us FROM members WHERE organization = :organization AND "user" > :after
ORDER BY "user" LIMIT :limit
"""

PUT_MEMBER = """
INSERT INTO members (organization, "user", role, added_at_us) VALUES (?, ?, ?, ?)
ON CONFLICT (organization, "user") DO UPDATE SET role = excluded.role
"""

REMOVE_MEMBER = 'DELETE FROM members WHERE organization = :organization AND "user" = :user RETURNING "user"'

REMOVE_FROM_ALL = 'DELETE FROM members WHERE "user" = :name'

# --- the audit log ---

_EVENT_COLUMNS = "id, at_us, actor, action, owner, subject, subject_name, source, before, after"

INSERT_EVENT = f"INSERT INTO audit_events ({_EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608


def list_events(query: AuditQuery) -> str:
    """Return the statement with only the conditions that the query gives, so that each uses its index."""
    conditions = {
        "AND owner = :owner\n": query.owner,
        "AND actor = :actor\n": query.actor,
        "AND action = :action\n": query.action,
        "AND at_us >= :since_us\n": query.since_us,
        "AND at_us < :until_us\n": query.until_us,
        "AND (at_us, id) < ((SELECT at_us FROM audit_events WHERE id = :after), :after)\n": query.after,
    }
    given = "".join(condition for condition, value in conditions.items() if value is not None)
    return f"SELECT {_EVENT_COLUMNS} FROM audit_events WHERE TRUE\n{given}ORDER BY at_us DESC, id DESC LIMIT :limit"  # noqa: S608


# --- posting ---

CHARGE_COLUMNS = """
    id, kind, day, decision_id, key_id, owner, model, endpoint, price_id, admitted_at_us, month, status, attempts,
    request_bytes, answer_bytes, events, hold_nano,
    input_byte_millitokens, output_byte_millitokens, event_millitokens,
    output_told, uncharged_usage,
    measured, amount_nano, settled_at_us,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, audio_input_tokens, audio_output_tokens,
    reasoning_tokens,
    input_price_nano, cached_input_price_nano, cache_write_price_nano, output_price_nano, audio_input_price_nano,
    audio_output_price_nano, request_price_nano
"""

CLASS_COLUMNS = """
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, audio_input_tokens, audio_output_tokens,
    reasoning_tokens
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

_CHARGES = f"SELECT {CHARGE_COLUMNS} FROM charges\n"  # noqa: S608 - of constants alone

CHARGE = _CHARGES + "WHERE id = :id"

# Two subqueries: of one that gives both, PostgreSQL uses no index.
_ADMITTED_AT = "((SELECT admitted_at_us FROM charges WHERE id = :after), (SELECT seq FROM charges WHERE id = :after))"


def list_charges(query: ChargeQuery) -> str:
    """Return the statement with only the conditions that the query gives, so that each uses its index."""
    conditions = {
        "AND owner = :owner\n": query.owner,
        "AND key_id = :key_id\n": query.key_id,
        "AND model = :model\n": query.model,
        "AND admitted_at_us >= :since_us\n": query.since_us,
        "AND admitted_at_us < :until_us\n": query.until_us,
        f"AND (admitted_at_us, seq) < {_ADMITTED_AT}\n": query.after,
    }
    given = "".join(condition for condition, value in conditions.items() if value is not None)
    return _CHARGES + "WHERE kind <> 'unsettled'\n" + given + "ORDER BY admitted_at_us DESC, seq DESC LIMIT :limit"


def list_unsettled(*, after: str | None, settled_later: bool) -> str:
    """Return the statement over all unsettled rows, or over the open ones."""
    statement, page, order = _ALL_UNSETTLED if settled_later else _OPEN_UNSETTLED
    return statement + ("" if after is None else page) + order


_ALL_UNSETTLED = (
    _CHARGES + "WHERE kind = 'unsettled'\n",
    f"AND (admitted_at_us, seq) < {_ADMITTED_AT}\n",
    "ORDER BY admitted_at_us DESC, seq DESC LIMIT :limit",
)
_OPEN_UNSETTLED = (
    f"SELECT {CHARGE_COLUMNS} FROM open_unsettled CROSS JOIN charges WHERE seq = open_seq\n",  # noqa: S608
    f"AND (opened_at_us, open_seq) < {_ADMITTED_AT}\n",
    "ORDER BY opened_at_us DESC, open_seq DESC LIMIT :limit",
)

COUNT_UNSETTLED = "SELECT COUNT(*) FROM open_unsettled"

OWNER_TOTALS = "SELECT month, spent_nano FROM totals WHERE subject = :owner AND month <> ''"

_GROUPED_BY = {Group.OWNER: "owner", Group.DAY: "day", Group.KEY: "key_id", Group.MODEL: "model"}
_SUMMED = ("requests", *CLASS_COLUMNS.replace(",", " ").split(), "amount_nano")
_SUMS = ", ".join(
    f"CAST(SUM({column} >> 32) AS BIGINT), CAST(SUM({column} & 4294967295) AS BIGINT)" for column in _SUMMED
)
"""Each sum in two halves: it may be beyond 64 bits."""


def usage(query: UsageQuery) -> str:
    """Return the statement that sums by the groups that the query gives, sorted by them. Other groups are NULL."""
    chosen = [column for group, column in _GROUPED_BY.items() if group in query.group_by]
    groups = ", ".join(column if column in chosen else "NULL" for column in _GROUPED_BY.values())
    owned = "" if query.owner is None else "owner = :owner AND "
    grouped = f"GROUP BY {', '.join(chosen)} ORDER BY {', '.join(chosen)} " if chosen else ""
    days = f"{owned}day BETWEEN :since AND :until"
    return f"SELECT {groups}, {_SUMS}\nFROM usage WHERE {days}\n{grouped}LIMIT :limit"


# --- prices and positions ---

INSERT_PRICES = """
INSERT INTO prices (
    id, input_price_nano, cached_input_price_nano, cache_write_price_nano, output_price_nano, audio_input_price_nano,
    audio_output_price_nano, request_price_nano
) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

PRICES = """
SELECT
    input_price_nano, cached_input_price_nano, cache_write_price_nano, output_price_nano, audio_input_price_nano,
    audio_output_price_nano, request_price_nano
FROM prices
WHERE id = :id
"""

PRICE_HISTORY = "SELECT from_us, price_id, noted_at_us FROM price_versions WHERE model = :model ORDER BY from_us, seq"

POSITIONS = "SELECT file, offset_bytes FROM journal_positions"

# --- the deployment ---

KEEP_CURRENCY = """
INSERT INTO deployment (name, value) VALUES ('currency', :currency)
ON CONFLICT (name) DO UPDATE SET value = deployment.value
RETURNING value
"""
