"""Usage: what was used and spent, summed."""

from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict, Field

from keytoll.core.errors import InvalidValue
from keytoll.core.money import format_amount
from keytoll.core.usage import Group, Sums, UsageRow
from keytoll.http.contract.common import (
    About,
    Amount,
    Answer,
    KeyId,
    KeyName,
    Model,
    OwnerName,
    Query,
    without_defaults,
)
from keytoll.management import UsageReport

_DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


class OwnersUsageQuery(Query):
    """Which days to sum, the last one included, and what by; without days, the current month until today."""

    since: str | None = Field(None, pattern=_DAY, description="The first day, in the billing zone")
    until: str | None = Field(None, pattern=_DAY, description="The last day, in the billing zone")
    group_by: str = Field(
        "",
        pattern="^((day|key|model)(,(day|key|model)){0,2})?$",
        description="What to sum by: `day`, `key`, `model`, separated by commas; nothing for the total alone",
        examples=["day,model"],
    )

    def groups(self) -> frozenset[Group]:
        """Return what to sum by. Raises InvalidValue."""
        names = self.group_by.split(",") if self.group_by else []
        if len(set(names)) < len(names):
            raise InvalidValue("group_by", "must not name anything twice")
        return frozenset(map(Group, names))


class UsageQuery(OwnersUsageQuery):
    """The same of everybody."""

    group_by: str = Field(
        "",
        pattern="^((owner|day|key|model)(,(owner|day|key|model)){0,3})?$",
        description="What to sum by: `owner`, `day`, `key`, `model`, separated by commas; nothing for the total alone",
        examples=["owner,day"],
    )


class SumsOut(Answer):
    """How many requests were charged, their tokens and amounts. Reasoning and audio output are parts of the output."""

    requests: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    amount: Amount

    @classmethod
    def of(cls, sums: Sums) -> "SumsOut":
        """Return the sums."""
        return cls(**_sums(sums))


def _sums(sums: Sums) -> dict[str, Any]:
    tokens = {f"{name}_tokens": count for name, count in asdict(sums.tokens).items()}
    return {"requests": sums.requests, **tokens, "amount": format_amount(sums.amount_nano)}


class UsageRowOut(SumsOut):
    """The sums of one group; what is not grouped by is left out. `key_name` is null for a key that is not known."""

    model_config = ConfigDict(json_schema_extra=without_defaults)

    owner: OwnerName = ""
    day: str = ""
    key_id: KeyId = ""
    key_name: KeyName | None = None
    model: Model = ""

    @classmethod
    def grouped(cls, row: UsageRow, report: UsageReport) -> "UsageRowOut":
        """Return the sums, with what they are grouped by."""
        groups = {"owner": row.owner, "day": row.day, "key_id": row.key_id, "model": row.model}
        told: dict[str, Any] = {name: value for name, value in groups.items() if value is not None}
        if row.key_id is not None:
            told["key_name"] = report.key_names.get(row.key_id)
        return cls(**told, **_sums(row.sums))


class UsageOut(Answer):
    """Sums by group, and of all of them."""

    since: str
    until: str
    currency: str
    billing_time_zone: str
    data: list[UsageRowOut]
    total: SumsOut

    @classmethod
    def of(cls, report: UsageReport, about: About) -> "UsageOut":
        """Return the report."""
        return cls(
            since=report.since,
            until=report.until,
            currency=about.currency,
            billing_time_zone=about.billing_time_zone,
            data=[UsageRowOut.grouped(row, report) for row in report.rows],
            total=SumsOut.of(report.total),
        )
