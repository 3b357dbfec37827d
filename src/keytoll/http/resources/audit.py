"""The audit log."""

from typing import Annotated

from fastapi import APIRouter, Query

from keytoll.http.contract.audit import EventOut, EventPage, EventsQuery
from keytoll.http.guard import GuardedRoute
from keytoll.http.resources.common import ROOT, By, Services, problems

_audit = APIRouter(prefix=ROOT, route_class=GuardedRoute, tags=["audit"])
ROUTERS = (_audit,)


@_audit.get("/audit-events", operation_id="list_audit_events", responses=problems(404))
async def list_audit_events(query: Annotated[EventsQuery, Query()], by: By, services: Services) -> EventPage:
    """List who changed what, newest first: of oneself and the organizations one administers, to operators all."""
    page = await services.audit.list_events(by, query.to_core())
    return EventPage(data=[EventOut.of(event) for event in page.data], next=page.next)
