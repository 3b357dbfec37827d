"""The JSON contract of the management API. What comes in is read strictly; amounts are decimal strings both ways."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from keytoll.core.expiry import format_timestamp, parse_timestamp
from keytoll.core.explain import Estimate, Line, format_femto
from keytoll.core.ledger import Charge, Kind
from keytoll.core.money import format_amount, parse_amount
from keytoll.core.quota import Quota, QuotaKind
from keytoll.management import MAX_PAGE, UNCHANGED, Access, ExplainedCharge, KeyChanges, Standing, Unsettled
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


class _PageQuery(_Query):
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
    disabled: bool = False
    allowed_models: list[str] | None = None
    allowed_networks: list[str] | None = None

    def access(self) -> Access:
        """Return what the key may be used for."""
        return Access(self.disabled, self.allowed_models, self.allowed_networks)


class RotateIn(_Strict):
    """How to rotate a key: the old secret works on until `old_valid_until`, or, if that is null, not at all."""

    old_valid_until: str | None = None


class KeyPatch(_Strict):
    """Changes to a key. What is left out stays.

    An `expires_at` of null means never, `allowed_models` of null or empty all models, `allowed_networks` of null
    everywhere.
    """

    name: str = ""
    quota: QuotaIn = QuotaIn(kind="unlimited")
    expires_at: str | None = None
    disabled: bool = False
    allowed_models: list[str] | None = None
    allowed_networks: list[str] | None = None

    def to_core(self) -> KeyChanges:
        """Return the changes. Raises InvalidValue."""
        given = self.model_fields_set
        return KeyChanges(
            name=self.name if "name" in given else UNCHANGED,
            quota=self.quota.to_core() if "quota" in given else UNCHANGED,
            expires_at_us=instant("expires_at", self.expires_at) if "expires_at" in given else UNCHANGED,
            disabled=self.disabled if "disabled" in given else UNCHANGED,
            allowed_models=self.allowed_models if "allowed_models" in given else UNCHANGED,
            allowed_networks=self.allowed_networks if "allowed_networks" in given else UNCHANGED,
        )


class NoQuery(_Query):
    """No query at all: a change must not be made for real because its `dry_run` is not known."""


class EditQuery(_Query):
    """How to edit: a dry run changes nothing, and tells what the edit would do."""

    dry_run: bool = False


class KeysQuery(_PageQuery):
    """Which page of keys to list."""


class UnsettledQuery(_PageQuery):
    """Which unsettled decisions to list: the open ones, or all, those that were corrected since too."""

    settled_later: bool = Field(False, alias="all")


class ChargesQuery(_PageQuery):
    """Which charges to list."""

    owner: str | None = None
    key_id: str | None = None
    since: str | None = None

    def to_core(self) -> ChargeQuery:
        """Return the query."""
        return ChargeQuery(
            owner=self.owner,
            key_id=self.key_id,
            since_us=instant("since", self.since),
            after=self.after,
            limit=self.limit,
        )


class QuotaOut(BaseModel):
    """A key's quota; the limit is null exactly when it is unlimited."""

    kind: QuotaKind
    limit: str | None

    @classmethod
    def of(cls, quota: Quota) -> "QuotaOut":
        """Return the quota."""
        return cls(kind=quota.kind, limit=_optional_amount(quota.limit_nano))


class OwnKey(BaseModel):
    """A key as it tells of itself, in the way of OpenAI's objects; the fields are those of `KeyOut`."""

    object: Literal["key"] = "key"
    name: str
    masked_key: str
    owner: str
    quota: QuotaOut
    used: str
    remaining: str | None
    resets_at: str | None
    expires_at: str | None
    allowed_models: list[str] | None

    @classmethod
    def of(cls, stored: StoredKey, standing: Standing) -> "OwnKey":
        """Return the key."""
        shown = KeyOut.of(stored, standing).model_dump()
        return cls(**{name: shown[name] for name in cls.model_fields if name != "object"})


class KeyOut(BaseModel):
    """A key as it may be shown. `used` is this month's spending under a monthly quota, else all there was.

    `remaining` is what is left of the limit, never below 0 and null without one; what requests under way may cost is
    not counted. `resets_at` is null unless the quota is monthly. `last_used_at` is the newest admission that was settled.
    `old_valid_until` is until when the secret before the last rotation works, null if it doesn't.
    """

    id: str
    name: str
    owner: str
    masked_key: str
    quota: QuotaOut
    used: str
    remaining: str | None
    resets_at: str | None
    expires_at: str | None
    disabled: bool
    allowed_models: list[str] | None
    allowed_networks: list[str] | None
    created_at: str
    created_by: str
    last_used_at: str | None
    old_valid_until: str | None

    @classmethod
    def of(cls, stored: StoredKey, standing: Standing) -> "KeyOut":
        """Return the key."""
        key = stored.key
        return cls(
            id=key.id,
            name=key.name,
            owner=key.owner,
            masked_key=key.masked,
            quota=QuotaOut.of(key.quota),
            used=format_amount(standing.used_nano),
            remaining=_optional_amount(standing.left_nano),
            resets_at=_optional_timestamp(standing.resets_at_us),
            expires_at=_optional_timestamp(key.expires_at_us),
            disabled=key.disabled,
            allowed_models=None if key.allowed_models is None else list(key.allowed_models),
            allowed_networks=None if key.allowed_networks is None else list(key.allowed_networks.texts),
            created_at=format_timestamp(key.created_at_us),
            created_by=key.created_by,
            last_used_at=_optional_timestamp(stored.last_used_at_us),
            old_valid_until=_optional_timestamp(standing.old_valid_until_us),
        )


class CreatedKey(KeyOut):
    """A key just made or rotated, with its secret, this once."""

    secret: str


class EditPreviewOut(BaseModel):
    """What an edit would do, if it were made at the instant `from`. Nothing was changed."""

    before: KeyOut
    after: KeyOut
    effects: list[str]
    from_: str = Field(serialization_alias="from")


class KeyPage(BaseModel):
    """A page of keys. `next` is the `after` of the next page, null on the last."""

    data: list[KeyOut]
    next: str | None


class ChargeOut(BaseModel):
    """A row of the ledger.

    `hold` is what was held for it at most, null where that could not be bounded; `beyond_hold` by how much the amount
    is more. Bytes are those of the bodies that the caller sent and got, `events` those of a stream, null for no stream.
    """

    id: str
    kind: Kind
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
    price_id: str
    amount: str
    currency: str
    hold: str | None
    beyond_hold: str
    measured: str
    status: int
    attempts: int
    request_bytes: int
    answer_bytes: int
    events: int | None
    month: str
    admitted_at: str
    settled_at: str

    @classmethod
    def of(cls, charge: Charge, *, currency: str) -> "ChargeOut":
        """Return the charge."""
        entry, usage = charge.entry, charge.usage
        return cls(
            id=charge.id,
            kind=charge.kind,
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
            price_id=entry.price_id,
            amount=format_amount(charge.amount_nano),
            currency=currency,
            hold=_optional_amount(entry.hold_nano),
            beyond_hold=format_amount(charge.beyond_hold_nano),
            measured=charge.measured.value,
            status=entry.status,
            attempts=entry.attempts,
            request_bytes=entry.request_bytes,
            answer_bytes=entry.answer_bytes,
            events=entry.events,
            month=entry.month,
            admitted_at=format_timestamp(entry.admitted_at_us),
            settled_at=format_timestamp(charge.settled_at_us),
        )


class LineOut(BaseModel):
    """One item of a sum: `count` tokens of a class at `price` for each `per` of them; or the request itself, once."""

    item: str
    count: int
    price: str
    per: int
    product: str

    @classmethod
    def of(cls, line: Line) -> "LineOut":
        """Return the line."""
        return cls(
            item=line.item,
            count=line.count,
            price=format_amount(line.price_nano),
            per=line.per,
            product=format_femto(line.product_femto),
        )


class EstimateOut(BaseModel):
    """How tokens were estimated: `count` bytes or events of `source`, at `rate` tokens each, rounded up."""

    item: str
    source: str
    count: int
    rate: str
    tokens: int

    @classmethod
    def of(cls, estimate: Estimate) -> "EstimateOut":
        """Return the estimate."""
        whole, thousandths = divmod(estimate.thousandths, 1000)
        rate = f"{whole}.{thousandths:03d}"
        return cls(item=estimate.item, source=estimate.source, count=estimate.count, rate=rate, tokens=estimate.tokens)


class ChargeDetail(ChargeOut):
    """A row of the ledger with its sum: `lines` add up to `sum`, exactly; `rounding` to nano-units is half to even.

    `served`: a backend worked on it; where none did, there is nothing to add up. `capped`: an estimate was cut from
    `rounded` to `hold`. `adds_up`: the amount is what this comes to. `price_from` is since when the price applied, null
    for a model's first. A correction `refers_to` the unsettled row that it corrects.
    """

    refers_to: str | None
    price_from: str | None
    served: bool
    lines: list[LineOut]
    sum: str
    rounding: str
    rounded: str
    capped: bool
    adds_up: bool
    estimates: list[EstimateOut]

    @classmethod
    def explained(cls, found: ExplainedCharge, *, currency: str) -> "ChargeDetail":
        """Return the charge with its sum."""
        explanation = found.explanation
        return cls(
            **ChargeOut.of(found.charge, currency=currency).model_dump(),
            refers_to=found.charge.refers_to,
            price_from=_optional_timestamp(found.price_from_us),
            served=explanation.served,
            lines=[LineOut.of(line) for line in explanation.lines],
            sum=format_femto(explanation.sum_femto),
            rounding=format_femto(explanation.rounding_femto),
            rounded=format_amount(explanation.rounded_nano),
            capped=explanation.capped,
            adds_up=explanation.adds_up,
            estimates=[EstimateOut.of(estimate) for estimate in explanation.estimates],
        )


class UnsettledOut(BaseModel):
    """A decision whose log entry never came: what it held is not charged. `noted_at` is when that was found.

    `corrected_by` is the charge that followed if the entry came after all.
    """

    id: str
    decision_id: str
    key_id: str
    owner: str
    model: str
    admitted_at: str
    hold: str | None
    noted_at: str
    corrected_by: str | None

    @classmethod
    def of(cls, unsettled: Unsettled) -> "UnsettledOut":
        """Return the decision."""
        charge, entry = unsettled.charge, unsettled.charge.entry
        return cls(
            id=charge.id,
            decision_id=str(entry.decision_id),
            key_id=entry.key_id,
            owner=entry.owner,
            model=entry.model,
            admitted_at=format_timestamp(entry.admitted_at_us),
            hold=_optional_amount(entry.hold_nano),
            noted_at=format_timestamp(charge.settled_at_us),
            corrected_by=unsettled.corrected_by,
        )


class UnsettledPage(BaseModel):
    """A page of unsettled decisions, newest admission first. `next` is the `after` of the next page, null on the last."""

    data: list[UnsettledOut]
    next: str | None


class ChargePage(BaseModel):
    """A page of charges, newest admission first. `next` is the `after` of the next page, null on the last."""

    data: list[ChargeOut]
    next: str | None


def instant(field: str, text: str | None) -> int | None:
    """Return the microseconds of an RFC 3339 timestamp, None for none. Raises InvalidValue."""
    return None if text is None else parse_timestamp(text, field=field)


def _optional_timestamp(at_us: int | None) -> str | None:
    return None if at_us is None else format_timestamp(at_us)


def _optional_amount(nano: int | None) -> str | None:
    return None if nano is None else format_amount(nano)
