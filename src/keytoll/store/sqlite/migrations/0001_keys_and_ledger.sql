-- Amounts (_nano) are nano-units of the deployment's currency, instants (_us) microseconds since the UNIX epoch.

CREATE TABLE owners (
    kind          TEXT    NOT NULL CHECK (kind IN ('users', 'organizations')),
    name          TEXT    NOT NULL,
    created_at_us INTEGER NOT NULL,
    deleted_at_us INTEGER,  -- charges are kept by the name, so a deleted one stays, invisible, and is never used again
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE members (
    organization TEXT    NOT NULL,
    user         TEXT    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('admin', 'member')),
    added_at_us  INTEGER NOT NULL,
    PRIMARY KEY (organization, user)
) STRICT, WITHOUT ROWID;

CREATE INDEX members_of_user ON members (user, organization);

CREATE TABLE access_tokens (
    user          TEXT    NOT NULL PRIMARY KEY,  -- so that a person has one at most
    digest        BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),  -- SHA-256 of the secret
    last4         TEXT    NOT NULL,
    created_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- No foreign key leads to owners: what was done stays told, whoever is deleted.
CREATE TABLE audit_events (
    id           TEXT    NOT NULL PRIMARY KEY,
    at_us        INTEGER NOT NULL,
    actor        TEXT    NOT NULL,
    action       TEXT    NOT NULL,
    owner        TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    subject_name TEXT    NOT NULL,
    source       TEXT    NOT NULL,
    before       TEXT,  -- JSON: what may be shown of the subject; NULL: it wasn't there
    after        TEXT   -- likewise
) STRICT;

CREATE INDEX audit_events_at ON audit_events (at_us, id);
CREATE INDEX audit_events_of_owner ON audit_events (owner, at_us, id);
CREATE INDEX audit_events_of_actor ON audit_events (actor, at_us, id);
CREATE INDEX audit_events_of_action ON audit_events (action, at_us, id);

CREATE TRIGGER audit_events_never_change BEFORE UPDATE ON audit_events
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_events_never_go BEFORE DELETE ON audit_events
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE TABLE keys (
    id            TEXT    NOT NULL PRIMARY KEY,
    owner         TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    folded_name   TEXT    NOT NULL,  -- without upper and lower case, to search and sort by
    digest        BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),  -- SHA-256 of the secret
    last4         TEXT    NOT NULL,
    quota_kind    TEXT    NOT NULL CHECK (quota_kind IN ('unlimited', 'monthly', 'total')),
    limit_nano    INTEGER CHECK (limit_nano >= 0),
    expires_at_us INTEGER,
    created_at_us INTEGER NOT NULL,
    created_by    TEXT    NOT NULL DEFAULT 'operator',
    disabled      INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    allowed_models     TEXT,     -- a JSON array of names; NULL: all
    allowed_networks   TEXT,     -- a JSON array of networks; NULL: everywhere
    old_digest         BLOB CHECK (length(old_digest) = 32),  -- of the secret before the last rotation
    old_valid_until_us INTEGER,
    last_used_at_us    INTEGER,  -- the newest admission that was settled
    deleted_at_us INTEGER,  -- a deleted key stays for the sake of its charges, and is invisible
    -- To sort by: what never expires comes last, what was never used first.
    ends_at_us    INTEGER NOT NULL GENERATED ALWAYS AS (COALESCE(expires_at_us, 9223372036854775807)),
    used_at_us    INTEGER NOT NULL GENERATED ALWAYS AS (COALESCE(last_used_at_us, 0)),
    CHECK ((quota_kind = 'unlimited') = (limit_nano IS NULL)),
    CHECK ((old_digest IS NULL) = (old_valid_until_us IS NULL))
) STRICT;

CREATE UNIQUE INDEX keys_name ON keys (owner, name) WHERE deleted_at_us IS NULL;
CREATE UNIQUE INDEX keys_old_digest ON keys (old_digest);
CREATE INDEX keys_of_owner ON keys (owner, id) WHERE deleted_at_us IS NULL;
CREATE INDEX keys_of_owner_by_name ON keys (owner, folded_name, id) WHERE deleted_at_us IS NULL;
CREATE INDEX keys_of_owner_by_end ON keys (owner, ends_at_us, id) WHERE deleted_at_us IS NULL;
CREATE INDEX keys_of_owner_by_use ON keys (owner, used_at_us, id) WHERE deleted_at_us IS NULL;
CREATE INDEX keys_by_name ON keys (folded_name, id) WHERE deleted_at_us IS NULL;
CREATE INDEX keys_by_end ON keys (ends_at_us, id) WHERE deleted_at_us IS NULL;
CREATE INDEX keys_by_use ON keys (used_at_us, id) WHERE deleted_at_us IS NULL;

-- Changes that were asked for under an id of the caller's, so that a repeat is told from a new one.
CREATE TABLE asked_once (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,  -- tells how many came since
    id          BLOB    NOT NULL UNIQUE,  -- a hash of that id and of what it was sent for
    fingerprint BLOB    NOT NULL,         -- a hash of what was asked for
    key_id      TEXT    NOT NULL,
    at_us       INTEGER NOT NULL
) STRICT;

CREATE INDEX asked_once_at ON asked_once (at_us);

CREATE TABLE prices (
    id                       TEXT    NOT NULL PRIMARY KEY,  -- a hash of the prices
    input_price_nano         INTEGER NOT NULL,              -- token prices are for a million tokens
    cached_input_price_nano  INTEGER NOT NULL,
    cache_write_price_nano   INTEGER NOT NULL,
    output_price_nano        INTEGER NOT NULL,
    audio_input_price_nano   INTEGER NOT NULL,
    audio_output_price_nano  INTEGER NOT NULL,
    request_price_nano       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which model had which prices from when. Of one model and from_us, the last row applies.
CREATE TABLE price_versions (
    seq         INTEGER PRIMARY KEY,
    model       TEXT    NOT NULL,
    from_us     INTEGER NOT NULL,
    price_id    TEXT    NOT NULL REFERENCES prices (id),
    noted_at_us INTEGER NOT NULL
) STRICT;

CREATE INDEX price_versions_of_model ON price_versions (model, from_us);

CREATE TRIGGER price_versions_never_change BEFORE UPDATE ON price_versions
BEGIN SELECT RAISE(ABORT, 'the history of prices is append-only'); END;
CREATE TRIGGER price_versions_never_go BEFORE DELETE ON price_versions
BEGIN SELECT RAISE(ABORT, 'the history of prices is append-only'); END;

-- No foreign key leads to keys or prices: what was used is charged, whatever else is known.
CREATE TABLE charges (
    seq                      INTEGER PRIMARY KEY AUTOINCREMENT,  -- the last one is the ledger's revision
    id                       TEXT    NOT NULL UNIQUE,
    kind                     TEXT    NOT NULL CHECK (kind IN ('charge', 'unsettled', 'correction')),
    refers_to                TEXT    REFERENCES charges (id),  -- the unsettled row that a correction corrects
    decision_id              TEXT    NOT NULL,
    key_id                   TEXT    NOT NULL,
    owner                    TEXT    NOT NULL,
    model                    TEXT    NOT NULL,
    endpoint                 TEXT    NOT NULL,
    price_id                 TEXT    NOT NULL,
    admitted_at_us           INTEGER NOT NULL,
    month                    TEXT    NOT NULL CHECK (month <> ''),
    day                      TEXT    NOT NULL CHECK (length(day) = 10),
    status                   INTEGER NOT NULL,
    attempts                 INTEGER NOT NULL,
    request_bytes            INTEGER NOT NULL,
    answer_bytes             INTEGER NOT NULL,
    events                   INTEGER,  -- NULL: the answer was no stream
    hold_nano                INTEGER,  -- NULL: the worst case could not be bounded
    input_byte_millitokens   INTEGER NOT NULL,  -- what an estimate counts by
    output_byte_millitokens  INTEGER NOT NULL,
    event_millitokens        INTEGER NOT NULL,
    output_told              INTEGER CHECK (output_told IN (0, 1)),  -- NULL: no usage was reported
    uncharged_usage          TEXT,  -- JSON: what was reported, where that isn't what the token columns hold
    measured                 TEXT    NOT NULL,
    amount_nano              INTEGER NOT NULL,
    settled_at_us            INTEGER NOT NULL,
    input_tokens             INTEGER NOT NULL,
    cached_input_tokens      INTEGER NOT NULL,
    cache_write_tokens       INTEGER NOT NULL,
    output_tokens            INTEGER NOT NULL,
    audio_input_tokens       INTEGER NOT NULL,
    audio_output_tokens      INTEGER NOT NULL,
    reasoning_tokens         INTEGER NOT NULL,              -- part of the output
    input_price_nano         INTEGER NOT NULL,              -- the unit prices that amount_nano was computed with
    cached_input_price_nano  INTEGER NOT NULL,
    cache_write_price_nano   INTEGER NOT NULL,
    output_price_nano        INTEGER NOT NULL,
    audio_input_price_nano   INTEGER NOT NULL,
    audio_output_price_nano  INTEGER NOT NULL,
    request_price_nano       INTEGER NOT NULL,
    fingerprint              BLOB    NOT NULL,              -- of the entry's facts
    CHECK ((kind = 'correction') = (refers_to IS NOT NULL)),
    CHECK (kind <> 'unsettled' OR amount_nano = 0)
) STRICT;

-- A decision has at most one unsettled row, and one that settles it.
CREATE UNIQUE INDEX charges_decision ON charges (decision_id, kind = 'unsettled');
-- Each index ends in seq, the rowid, so all of them give the order (admitted_at_us, seq).
CREATE INDEX charges_admitted ON charges (admitted_at_us) WHERE kind <> 'unsettled';
CREATE INDEX charges_of_owner ON charges (owner, admitted_at_us) WHERE kind <> 'unsettled';
CREATE INDEX charges_of_key ON charges (key_id, admitted_at_us) WHERE kind <> 'unsettled';
CREATE INDEX charges_of_model ON charges (model, admitted_at_us) WHERE kind <> 'unsettled';
CREATE INDEX charges_of_owner_and_model ON charges (owner, model, admitted_at_us) WHERE kind <> 'unsettled';
CREATE INDEX charges_unsettled ON charges (admitted_at_us) WHERE kind = 'unsettled';

CREATE TRIGGER charges_never_change BEFORE UPDATE ON charges
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

-- What is left of rows that were moved into an archive: enough to know their entries again. A row may go only after that.
CREATE TABLE archived_charges (
    decision_id TEXT NOT NULL,
    kind        TEXT NOT NULL,
    id          TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    archive     TEXT NOT NULL,  -- the name of the file
    PRIMARY KEY (decision_id, kind)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER charges_never_go BEFORE DELETE ON charges
WHEN NOT EXISTS (SELECT 1 FROM archived_charges WHERE decision_id = OLD.decision_id AND kind = OLD.kind)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER archived_charges_never_change BEFORE UPDATE ON archived_charges
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER archived_charges_never_go BEFORE DELETE ON archived_charges
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

-- The unsettled rows without a correction: a list of its own, since the rows themselves never change.
CREATE TABLE open_unsettled (
    open_seq     INTEGER PRIMARY KEY REFERENCES charges (seq),
    opened_at_us INTEGER NOT NULL  -- when it was admitted
) STRICT;

CREATE INDEX open_unsettled_admitted ON open_unsettled (opened_at_us);

CREATE TABLE totals (
    subject    TEXT    NOT NULL,  -- the id of a key, or an owner
    month      TEXT    NOT NULL,  -- '' is the whole life, which is kept for keys only
    spent_nano INTEGER NOT NULL,
    PRIMARY KEY (subject, month)
) STRICT, WITHOUT ROWID;

-- The sums of charges and corrections, written with them, so that nobody ever has to add up the ledger.
CREATE TABLE usage (
    owner               TEXT    NOT NULL,
    day                 TEXT    NOT NULL,  -- of the admission, in the billing time zone
    key_id              TEXT    NOT NULL,
    model               TEXT    NOT NULL,
    requests            INTEGER NOT NULL,
    input_tokens        INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    cache_write_tokens  INTEGER NOT NULL,
    output_tokens       INTEGER NOT NULL,
    audio_input_tokens  INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    reasoning_tokens    INTEGER NOT NULL,  -- part of the output
    amount_nano         INTEGER NOT NULL,
    PRIMARY KEY (owner, day, key_id, model)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_of_day ON usage (day);

CREATE TABLE rejected (
    seq    INTEGER PRIMARY KEY,
    reason TEXT    NOT NULL,
    text   TEXT    NOT NULL,  -- the entry as it came
    at_us  INTEGER NOT NULL
) STRICT;

CREATE TABLE conflicts (
    decision_id TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    entry       TEXT    NOT NULL,  -- JSON
    at_us       INTEGER NOT NULL,
    PRIMARY KEY (decision_id, fingerprint)
) STRICT, WITHOUT ROWID;

CREATE TABLE journal_positions (
    file         TEXT    NOT NULL PRIMARY KEY,
    offset_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What can't change once amounts are kept; today the currency alone.
CREATE TABLE deployment (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
