"""Charges: what was used, what it cost, and how that comes about."""

from typing import Literal

from pydantic import Field

from keytoll.core.expiry import format_timestamp
from keytoll.core.explain import Estimate, Line, format_femto
from keytoll.core.ledger import Charge, Kind, Measured
from keytoll.core.money import format_amount
from keytoll.http.contract.common import (
    Amount,
    Answer,
    Flag,
    KeyId,
    KeyName,
    Model,
    OwnerName,
    PageQuery,
    Strict,
    Timestamp,
    instant,
    optional_amount,
    optional_timestamp,
)
from keytoll.management import Archived, ExplainedCharge, Unsettled
from keytoll.store.base import ChargeQuery


class ArchiveIn(Strict):
    """Which charges to move into an archive: those admitted before this day of the billing time zone."""

    before: str = Field(description="A day, not in the future", examples=["2026-01-01"])


class ArchivedOut(Answer):
    """How many rows were moved into the archive of that day. Not `complete`: ask again for the rest."""

    archive: str
    rows: int
    complete: bool

    @classmethod
    def of(cls, archived: Archived) -> "ArchivedOut":
        """Return what was done."""
        return cls(archive=archived.archive, rows=archived.rows, complete=archived.complete)


class OwnersChargesQuery(PageQuery):
    """Which of an owner's charges to list: those admitted at or after `since`, and before `until`."""

    key_id: str | None = Field(None, max_length=100)
    model: str | None = Field(None, max_length=256)
    since: str | None = Field(None, description="An RFC 3339 timestamp", examples=["2026-11-01T00:00:00+08:00"])
    until: str | None = Field(None, description="An RFC 3339 timestamp", examples=["2026-12-01T00:00:00+08:00"])
    format: Literal["json", "csv"] | None = Field(None, description="What to answer with, whatever `Accept` says")

    def to_core(self, owner: str | None) -> ChargeQuery:
        """Return the query."""
        return ChargeQuery(
            owner=owner,
            key_id=self.key_id,
            model=self.model,
            since_us=instant("since", self.since),
            until_us=instant("until", self.until),
            after=self.after,
            limit=self.limit,
        )


class ChargesQuery(OwnersChargesQuery):
    """Which charges to list, of one owner or of all."""

    owner: str | None = Field(None, description="`users/NAME` or `organizations/NAME`")


class ChargeOut(Answer):
    """A row of the ledger.

    `hold` is what was held for it at most, null where that could not be bounded; `beyond_hold` by how much the amount
    is more. `key_name` is null if the key's name is not known any more. Bytes are those of the bodies that the caller sent and got, `events` those of a stream, null for no stream.
    """

    id: str
    kind: Kind
    decision_id: str
    key_id: KeyId
    key_name: KeyName | None
    owner: OwnerName
    model: Model
    endpoint: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    price_id: str
    amount: Amount
    currency: str
    hold: Amount | None
    beyond_hold: Amount
    measured: Measured
    status: int
    attempts: int
    request_bytes: int
    answer_bytes: int
    events: int | None
    month: str
    admitted_at: Timestamp
    settled_at: Timestamp

    @classmethod
    def of(cls, charge: Charge, *, key_name: str | None, currency: str) -> "ChargeOut":
        """Return the charge."""
        entry, usage = charge.entry, charge.usage
        return cls(
            id=charge.id,
            kind=charge.kind,
            decision_id=str(entry.decision_id),
            key_id=entry.key_id,
            key_name=key_name,
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
            hold=optional_amount(entry.hold_nano),
            beyond_hold=format_amount(charge.beyond_hold_nano),
            measured=charge.measured,
            status=entry.status,
            attempts=entry.attempts,
            request_bytes=entry.request_bytes,
            answer_bytes=entry.answer_bytes,
            events=entry.events,
            month=entry.month,
            admitted_at=format_timestamp(entry.admitted_at_us),
            settled_at=format_timestamp(charge.settled_at_us),
        )


class LineOut(Answer):
    """One item of a sum: `count` tokens of a class at `price` for each `per` of them; or the request itself, once."""

    item: str
    count: int
    price: Amount
    per: int
    product: Amount

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


class EstimateOut(Answer):
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
    price_from: Timestamp | None
    served: bool
    lines: list[LineOut]
    sum: Amount
    rounding: Amount
    rounded: Amount
    capped: bool
    adds_up: bool
    estimates: list[EstimateOut]

    @classmethod
    def explained(cls, found: ExplainedCharge, *, currency: str) -> "ChargeDetail":
        """Return the charge with its sum."""
        explanation = found.explanation
        return cls(
            **ChargeOut.of(found.charge, key_name=found.key_name, currency=currency).model_dump(),
            refers_to=found.charge.refers_to,
            price_from=optional_timestamp(found.price_from_us),
            served=explanation.served,
            lines=[LineOut.of(line) for line in explanation.lines],
            sum=format_femto(explanation.sum_femto),
            rounding=format_femto(explanation.rounding_femto),
            rounded=format_amount(explanation.rounded_nano),
            capped=explanation.capped,
            adds_up=explanation.adds_up,
            estimates=[EstimateOut.of(estimate) for estimate in explanation.estimates],
        )


class ChargePage(Answer):
    """A page of charges, newest admission first. `next` is the `after` of the next page, null on the last."""

    data: list[ChargeOut]
    next: str | None


class UnsettledQuery(PageQuery):
    """Which unsettled decisions to list: the open ones, or all, those that were corrected since too."""

    settled_later: Flag = Field(False, alias="all")


class UnsettledOut(Answer):
    """A decision whose log entry never came: what it held is not charged. `noted_at` is when that was found.

    `corrected_by` is the charge that followed if the entry came after all.
    """

    id: str
    decision_id: str
    key_id: KeyId
    owner: OwnerName
    model: Model
    admitted_at: Timestamp
    hold: Amount | None
    noted_at: Timestamp
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
            hold=optional_amount(entry.hold_nano),
            noted_at=format_timestamp(charge.settled_at_us),
            corrected_by=unsettled.corrected_by,
        )


class UnsettledPage(Answer):
    """A page of unsettled decisions, newest admission first. `next` is the `after` of the next page, null on the last."""

    data: list[UnsettledOut]
    next: str | None
