"""The audit log, read."""

from collections.abc import Sequence
from dataclasses import replace
from heapq import merge

from keytoll.core.audit import AuditEvent
from keytoll.core.owners import check_owner
from keytoll.core.permissions import Actor, Operator, Verb, check, visible
from keytoll.management.pages import Page, check_limit, page_of
from keytoll.store.base import AuditQuery, Store


class Audit:
    """Lists who changed what."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list_events(self, by: Actor, query: AuditQuery) -> Page[AuditEvent]:
        """Return the events that match, newest first.

        Without an owner a person gets those of all that they may read: of themselves, and of the organizations that
        they are an admin of.
        """
        check_limit(query.limit)
        one_more = replace(query, limit=query.limit + 1)
        owners = _owners(by, query.owner)
        if owners is None:
            found = await self._store.list_events(one_more)
        else:
            found = _newest([await self._store.list_events(replace(one_more, owner=owner)) for owner in owners])
        return page_of(found[: query.limit + 1], query.limit, lambda event: event.id)


def _owners(by: Actor, owner: str | None) -> Sequence[str] | None:
    """Return whose events are asked for, None for everybody's."""
    if owner is not None:
        check(by.who, Verb.AUDIT, check_owner(owner))
        return [owner]
    return None if isinstance(by.who, Operator) else visible(by.who, Verb.AUDIT)


def _newest(lists: Sequence[Sequence[AuditEvent]]) -> Sequence[AuditEvent]:
    return list(merge(*lists, key=lambda event: (event.at_us, event.id), reverse=True))
