"""Core's values to the rows of a store, and back. The order of a row is that of its statement in `queries`."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from operator import attrgetter
from typing import Any
from uuid import UUID

from keytoll.core.access import Networks
from keytoll.core.audit import Action, AuditEvent, Picture
from keytoll.core.keys import Key
from keytoll.core.ledger import Charge, Entry, Kind, Measured, Reported
from keytoll.core.owners import AccessToken, Member, Organization, User
from keytoll.core.permissions import Person, Role
from keytoll.core.pricing import Prices, Usage
from keytoll.core.quota import Quota, QuotaKind, Totals
from keytoll.core.rates import Rates
from keytoll.core.usage import Sums, UsageRow
from keytoll.store.base import KeyQuery, Once, Rejected, StoredKey
from keytoll.store.sql.transactions import Row

_MICROSECONDS = re.compile(r"\d{1,18}", re.ASCII)

_NOTHING = "{}"
"""What PostgreSQL makes no object of: no names and values."""

LIFETIME = ""
"""What stands for the month in a total of a key's whole life."""

_ENTRY = (
    "key_id",
    "owner",
    "model",
    "endpoint",
    "price_id",
    "admitted_at_us",
    "month",
    "status",
    "attempts",
    "request_bytes",
    "answer_bytes",
    "events",
    "hold_nano",
)
_RATES = ("input_byte", "output_byte", "event")
_USAGE = ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output", "reasoning")
_PRICES = ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output", "request")
_entry_columns = attrgetter(*_ENTRY)
_rates = attrgetter(*_RATES)
_usage_row = attrgetter(*_USAGE)
_unit_prices = attrgetter(*_PRICES)


def key_row(key: Key) -> Row:
    """Return the row that INSERT_KEY takes."""
    quota = (key.quota.kind.value, key.quota.limit_nano)
    lasts = (key.expires_at_us, key.created_at_us, key.created_by, key.disabled)
    old = (key.old_digest, key.old_valid_until_us)
    named = (key.id, key.owner, key.name, key.digest, key.last4)
    return (*named, *quota, *lasts, *_allowed(key), *old, folded(key.name))


def edited_row(key: Key) -> Mapping[str, Any]:
    """Return the values that UPDATE_KEY takes."""
    models, networks = _allowed(key)
    return {
        "id": key.id,
        "name": key.name,
        "folded_name": folded(key.name),
        "quota_kind": key.quota.kind.value,
        "limit_nano": key.quota.limit_nano,
        "expires_at_us": key.expires_at_us,
        "disabled": key.disabled,
        "allowed_models": models,
        "allowed_networks": networks,
    }


def rotated_row(key: Key) -> Mapping[str, Any]:
    """Return the values that ROTATE_KEY takes."""
    old = {"old_digest": key.old_digest, "old_valid_until_us": key.old_valid_until_us}
    return {"id": key.id, "digest": key.digest, "last4": key.last4, **old}


def folded(text: str) -> str:
    """Return a name, or a part of one, without upper and lower case in any script."""
    return text.casefold()


def key_query(query: KeyQuery) -> dict[str, Any]:
    """Return the values that the statement of a key query takes. A cursor that isn't one leads beyond the last page."""
    after, _, after_us = (query.after or "").partition("@")
    return {
        "owner": query.owner,
        "text": None if query.text is None else folded(query.text),
        "quota": query.quota,
        "after": after,
        "after_us": int(after_us) if _MICROSECONDS.fullmatch(after_us) else None,
        "limit": query.limit,
    }


def stored_key(row: Row) -> StoredKey:
    """Return the key with its totals."""
    *columns, last_used_at_us, totals, revision = row
    by_month = json.loads(totals or _NOTHING)
    return StoredKey(key(columns), Totals(by_month.pop(LIFETIME, 0), by_month), revision, last_used_at_us)


def key(row: Row) -> Key:
    """Return the key."""
    columns = iter(row)
    named = _named(("id", "owner", "name", "digest", "last4"), columns)
    kind, limit_nano = islice(columns, 2)
    lasts = _named(("expires_at_us", "created_at_us", "created_by"), columns)
    disabled, models, networks = islice(columns, 3)
    return Key(
        **named,
        quota=Quota(QuotaKind(kind), limit_nano),
        **lasts,
        disabled=bool(disabled),
        allowed_models=None if models is None else tuple(json.loads(models)),
        allowed_networks=None if networks is None else Networks(tuple(json.loads(networks))),
        **_named(("old_digest", "old_valid_until_us"), columns),
    )


def _allowed(key: Key) -> Row:
    models = None if key.allowed_models is None else json.dumps(key.allowed_models)
    return models, None if key.allowed_networks is None else json.dumps(key.allowed_networks.texts)


def asked_row(once: Once) -> Row:
    """Return the row that INSERT_ASKED takes."""
    return (once.id, once.fingerprint, once.key_id, once.at_us)


def user(row: Row) -> User:
    """Return the person."""
    name, created_at_us, digest, last4, token_at_us, roles = row
    token = None if digest is None else AccessToken(digest, last4, token_at_us)
    return User(name, created_at_us, token, _roles(roles))


def organization(row: Row) -> Organization:
    """Return the organization."""
    return Organization(*row)


def person(row: Row) -> Person:
    """Return who an access token is of."""
    name, roles = row
    return Person(name, _roles(roles))


def _roles(text: str | None) -> Mapping[str, Role]:
    return {organization: Role(role) for organization, role in json.loads(text or _NOTHING).items()}


def token_row(user: str, token: AccessToken) -> Row:
    """Return the row that PUT_TOKEN takes."""
    return user, token.digest, token.last4, token.created_at_us


def member(row: Row) -> Member:
    """Return the member."""
    user, role, added_at_us = row
    return Member(user, Role(role), added_at_us)


def member_row(organization: str, member: Member) -> Row:
    """Return the row that PUT_MEMBER takes."""
    return organization, member.user, member.role.value, member.added_at_us


def event_row(event: AuditEvent) -> Row:
    """Return the row that INSERT_EVENT takes."""
    told = (event.at_us, event.actor, event.action.value, event.owner)
    subject = (event.subject, event.subject_name, event.source)
    return (event.id, *told, *subject, _picture_text(event.before), _picture_text(event.after))


def event(row: Row) -> AuditEvent:
    """Return the event as it was kept."""
    id_, at_us, actor, action, *told, before, after = row
    owner, subject, subject_name, source = told
    pictures = (_picture(before), _picture(after))
    return AuditEvent(id_, at_us, actor, Action(action), owner, subject, subject_name, source, *pictures)


def _picture_text(picture: Picture | None) -> str | None:
    return None if picture is None else json.dumps(picture)


def _picture(text: str | None) -> Picture | None:
    return None if text is None else json.loads(text)


def usage_group_row(group: Sequence[str], sums: Sums) -> Row:
    """Return the row that PUT_USAGE takes."""
    return (*group, sums.requests, *_usage_row(sums.tokens), sums.amount_nano)


def usage_group(row: Row) -> tuple[tuple[str, str, str, str], Sums]:
    """Return owner, day, key and model of what USAGE_OF_GROUPS found, and the sums."""
    owner, day, key_id, model, *sums = row
    return (owner, day, key_id, model), _sums(sums)


def usage(row: Row) -> UsageRow:
    """Return what the statement of a usage query found."""
    owner, day, key_id, model, *halves = row
    pairs = zip(halves[::2], halves[1::2], strict=True)
    return UsageRow(_sums([(high << 32) + low for high, low in pairs]), owner, day, key_id, model)


def _sums(numbers: Sequence[int]) -> Sums:
    requests, *tokens, amount_nano = numbers
    return Sums(requests, Usage(**dict(zip(_USAGE, tokens, strict=True))), amount_nano)


def charge_row(charge: Charge, refers_to: str | None = None) -> Row:
    """Return the row that INSERT_CHARGE takes."""
    entry = charge.entry
    return (
        charge.id,
        charge.kind.value,
        charge.day,
        str(entry.decision_id),
        *_entry_columns(entry),
        *_rates(entry.rates),
        *_reported_row(charge),
        charge.measured.value,
        charge.amount_nano,
        charge.settled_at_us,
        *_usage_row(charge.usage),
        *_unit_prices(charge.prices),
        entry.fingerprint,
        refers_to,
    )


def charge(row: Row) -> Charge:
    """Return the charge as it was posted."""
    columns = iter(row)
    id_, kind, day, decision_id = islice(columns, 4)
    facts = _named(_ENTRY, columns)
    rates = Rates(**_named(_RATES, columns))
    output_told, uncharged = islice(columns, 2)
    measured, amount_nano, settled_at_us = islice(columns, 3)
    usage = Usage(**_named(_USAGE, columns))
    reported = _reported(output_told, uncharged, usage)
    return Charge(
        id=id_,
        kind=Kind(kind),
        entry=Entry(decision_id=UUID(str(decision_id)), **facts, rates=rates, reported=reported),
        prices=Prices(**_named(_PRICES, columns)),
        usage=usage,
        measured=Measured(measured),
        amount_nano=amount_nano,
        day=day,
        settled_at_us=settled_at_us,
    )


def _named(names: Sequence[str], columns: Iterator[Any]) -> dict[str, Any]:
    """Take a column for each name."""
    return dict(zip(names, islice(columns, len(names)), strict=True))


def _reported_row(charge: Charge) -> Row:
    """Return whether the output was told, and what was reported where it is not what is charged."""
    reported = charge.entry.reported
    if reported is None:
        return None, None
    return reported.output_told, None if reported.usage == charge.usage else json.dumps(asdict(reported.usage))


def _reported(output_told: bool | None, uncharged: str | None, charged: Usage) -> Reported | None:
    if output_told is None:
        return None
    return Reported(charged if uncharged is None else Usage(**json.loads(uncharged)), bool(output_told))


def conflict_row(charge: Charge) -> Row:
    """Return the row that INSERT_CONFLICT takes."""
    entry = charge.entry
    return str(entry.decision_id), entry.fingerprint, json.dumps(asdict(entry), default=str), charge.settled_at_us


def rejected_row(rejected: Rejected) -> Row:
    """Return the row that INSERT_REJECTED takes.

    What no store keeps, what can't be UTF-8 or is NUL, is escaped: an entry that can't be kept would come again for
    ever, and hold up all that follow.
    """
    text = rejected.text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
    return rejected.reason, text, rejected.at_us


def prices_row(prices: Prices) -> Row:
    """Return the row that INSERT_PRICES takes."""
    return (prices.id, *_unit_prices(prices))


def prices(row: Row) -> Prices:
    """Return the price version."""
    return Prices(**dict(zip(_PRICES, row, strict=True)))


def noted_row(model: str, from_us: int, prices: Prices, noted_at_us: int) -> Mapping[str, Any]:
    """Return what NOTE_PRICES takes."""
    return {"model": model, "from_us": from_us, "price_id": prices.id, "noted_at_us": noted_at_us}
