"""The JSON contract of the management API. What comes in is read strictly; amounts are decimal strings both ways."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from keytoll.core.expiry import format_timestamp, parse_timestamp
from keytoll.core.ledger import Charge
from keytoll.core.money import format_amount, parse_amount
from keytoll.core.quota import Quota, QuotaKind
from keytoll.management import MAX_PAGE, UNCHANGED, KeyChanges
from keytoll.store.base import ChargeQuery, StoredKey


@dataclass(frozen=True, slots=True)
class About:
    """What a client must know of a deployment to show its times and amounts."""

    version: str
    currency: str
    billing_time_zone: str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Query(BaseModel):
    """Query parameters. All are text, so numbers are read from it; unknown names are refused like unknown fields."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, max_length=100)
    limit: int = Field(100, ge=1, le=MAX_PAGE)


class QuotaIn(_Strict):
    """A quota as it is asked for."""

    kind: Literal["unlimited", "monthly", "total"]
    limit: str | None = None

    def to_core(self) -> Quota:
        """Return the quota. Raises InvalidValue."""
        limit_nano = None if self.limit is None else parse_amount(self.limit, field="quota.limit")
        return Quota(QuotaKind(self.kind), limit_nano)


class KeyIn(_Strict):
    """A key to be created: unlimited and never expiring unless it says otherwise."""

    name: str
    quota: QuotaIn = QuotaIn(kind="unlimited")
    expires_at: str | None = None


class KeyPatch(_Strict):
    """Changes to a key. What is left out stays; an `expires_at` of null means never."""

    name: str = ""
    quota: QuotaIn = QuotaIn(kind="unlimited")
    expires_at: str | None = None

    def to_core(self) -> KeyChanges:
        """Return the changes. Raises InvalidValue."""
        given = self.model_fields_set
        return KeyChanges(
            name=self.name if "name" in given else UNCHANGED,
            quota=self.quota.to_core() if "quota" in given else UNCHANGED,
            expires_at_us=instant("expires_at", self.expires_at) if "expires_at" in given else UNCHANGED,
        )


class KeysQuery(_Query):
    """Which page of keys to list."""


class ChargesQuery(_Query):
    """Which charges to list."""

    owner: str | None = None
    key_id: str | None = None
    since: str | None = None

    def to_core(self) -> ChargeQuery:
        """Return the query, asking for one more than the page holds, which tells whether a page follows."""
        return ChargeQuery(
            owner=self.owner,
            key_id=self.key_id,
            since_us=instant("since", self.since),
            after=self.after,
            limit=self.limit + 1,
        )


class QuotaOut(BaseModel):
    """A key's quota; the limit is null exactly when it is unlimited."""

    kind: QuotaKind
    limit: str | None


class KeyOut(BaseModel):
    """A key as it may be shown. `used` is this month's spending under a monthly quota, else all there was."""

    id: str
    name: str
    owner: str
    masked_key: str
    quota: QuotaOut
    used: str
    expires_at: str | None
    created_at: str

    @classmethod
    def of(cls, stored: StoredKey, *, used_nano: int) -> "KeyOut":
        """Return the key."""
        key, limit_nano = stored.key, stored.key.quota.limit_nano
        return cls(
            id=key.id,
            name=key.name,
            owner=key.owner,
            masked_key=key.masked,
            quota=QuotaOut(kind=key.quota.kind, limit=None if limit_nano is None else format_amount(limit_nano)),
            used=format_amount(used_nano),
            expires_at=None if key.expires_at_us is None else format_timestamp(key.expires_at_us),
            created_at=format_timestamp(key.created_at_us),
        )


class CreatedKey(KeyOut):
    """A key just made, with its secret, this once."""

    secret: str


class KeyPage(BaseModel):
    """A page of keys. `next` is the `after` of the next page, null on the last."""

    data: list[KeyOut]
    next: str | None


class ChargeOut(BaseModel):
    """A row of the ledger."""

    id: str
    decision_id: str
    key_id: str
    owner: str
    model: str
    endpoint: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    amount: str
    currency: str
    measured: str
    status: int
    attempts: int
    month: str
    admitted_at: str
    settled_at: str

    @classmethod
    def of(cls, charge: Charge, *, currency: str) -> "ChargeOut":
        """Return the charge."""
        entry, usage = charge.entry, charge.usage
        return cls(
            id=charge.id,
            decision_id=str(entry.decision_id),
            key_id=entry.key_id,
            owner=entry.owner,
            model=entry.model,
            endpoint=entry.endpoint,
            input_tokens=usage.input,
            cached_input_tokens=usage.cached_input,
            cache_write_tokens=usage.cache_write,
            output_tokens=usage.output,
            reasoning_tokens=usage.reasoning,
            audio_input_tokens=usage.audio_input,
            audio_output_tokens=usage.audio_output,
            amount=format_amount(charge.amount_nano),
            currency=currency,
            measured=charge.measured.value,
            status=entry.status,
            attempts=entry.attempts,
            month=entry.month,
            admitted_at=format_timestamp(entry.admitted_at_us),
            settled_at=format_timestamp(charge.settled_at_us),
        )


class ChargePage(BaseModel):
    """A page of charges, newest admission first. `next` is the `after` of the next page, null on the last."""

    data: list[ChargeOut]
    next: str | None


def instant(field: str, text: str | None) -> int | None:
    """Return the microseconds of an RFC 3339 timestamp, None for none. Raises InvalidValue."""
    return None if text is None else parse_timestamp(text, field=field)
