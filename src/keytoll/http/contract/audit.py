"""The audit log: who changed what."""

from typing import Any

from pydantic import Field

from keytoll.core.audit import Action, AuditEvent
from keytoll.core.expiry import format_timestamp
from keytoll.http.contract.common import Answer, OwnerName, PageQuery, Timestamp, instant
from keytoll.store.base import AuditQuery


class EventsQuery(PageQuery):
    """Which events to list: those at or after `since`, and before `until`."""

    owner: str | None = Field(
        None, max_length=100, description="Whom they concern: `users/NAME` or `organizations/NAME`"
    )
    actor: str | None = Field(None, max_length=100, description="Who did it: `operator` or `users/NAME`")
    action: Action | None = None
    since: str | None = Field(None, description="An RFC 3339 timestamp", examples=["2026-11-01T00:00:00+08:00"])
    until: str | None = Field(None, description="An RFC 3339 timestamp", examples=["2026-12-01T00:00:00+08:00"])

    def to_core(self) -> AuditQuery:
        """Return the query."""
        return AuditQuery(
            owner=self.owner,
            actor=self.actor,
            action=self.action,
            since_us=instant("since", self.since),
            until_us=instant("until", self.until),
            after=self.after,
            limit=self.limit,
        )


class EventOut(Answer):
    """One change: `actor` (`operator` or `users/NAME`), from `source`, did it to `subject`, which belongs to `owner`.

    `before` and `after` are how the subject looked; what was made had no before, what was deleted has no after.
    """

    id: str
    at: Timestamp
    actor: str
    action: Action
    owner: OwnerName
    subject: str
    subject_name: str
    source: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @classmethod
    def of(cls, event: AuditEvent) -> "EventOut":
        """Return the event."""
        return cls(
            id=event.id,
            at=format_timestamp(event.at_us),
            actor=event.actor,
            action=event.action,
            owner=event.owner,
            subject=event.subject,
            subject_name=event.subject_name,
            source=event.source,
            before=None if event.before is None else dict(event.before),
            after=None if event.after is None else dict(event.after),
        )


class EventPage(Answer):
    """A page of events, newest first. `next` is the `after` of the next page, null on the last."""

    data: list[EventOut]
    next: str | None
