"""The services over a real store and a real key cache, as different people ask them."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from changes import OPERATOR
from serving import Clock
from store.builders import unique

from keytoll.admission.cache import MISS, KeyCache
from keytoll.core.audit import AuditEvent
from keytoll.core.keys import Key
from keytoll.core.months import Calendar
from keytoll.core.permissions import Actor, Person, Role
from keytoll.core.quota import Quota
from keytoll.core.secrets import digest_of
from keytoll.management import Management, create_management
from keytoll.store.base import AuditQuery, StoredKey
from keytoll.store.sqlite import SqliteStore


@dataclass
class House:
    """Alice is an admin of acme and bob a member of it; zoe runs zeta. All have keys."""

    store: SqliteStore
    cache: KeyCache
    management: Management
    clock: Clock
    keys: dict[str, Key] = field(default_factory=dict)

    async def actor(self, name: str) -> Actor:
        """Return a person as they may act now, or the operator."""
        if name == "operator":
            return OPERATOR
        user = await self.store.user(name)
        return Actor(Person(name, {} if user is None else user.roles), "203.0.113.7")

    async def new_key(self, owner: str, *, by: Actor = OPERATOR) -> tuple[Key, str]:
        """Make a key with a name of its own."""
        name = unique("key of ")
        stored, secret = await self.management.keys.create(
            by, owner=owner, name=name, quota=Quota(), expires_at_us=None
        )
        assert secret is not None
        self.keys.setdefault(owner, stored.key)
        return stored.key, secret

    async def checked(self, secret: str) -> StoredKey | None:
        """Return the key that a Check would find."""
        found = self.cache.find(digest_of(secret))
        return await self.cache.load(digest_of(secret)) if found is MISS else found

    async def told(self, count: int = 1) -> list[AuditEvent]:
        """Return the last events, newest first."""
        self.clock.now_us += 1000  # so that ids of what follows come after those of what was before
        return list(await self.store.list_events(AuditQuery(limit=count)))

    async def events(self) -> int:
        """Return how many events there are."""
        return len(await self.store.list_events(AuditQuery(limit=10_000)))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Three people and two organizations."""
    store, clock = await SqliteStore.open(tmp_path / "keytoll.db"), Clock()
    cache = KeyCache(store)
    calendar = Calendar(ZoneInfo("Asia/Shanghai"))
    management = create_management(store=store, cache=cache, calendar=calendar, clock=clock, random=os.urandom)
    house = House(store, cache, management, clock)
    for name in ("alice", "bob", "zoe"):
        await management.owners.create_user(OPERATOR, name)
    for name, admin in (("acme", "alice"), ("zeta", "zoe")):
        await management.owners.create_organization(OPERATOR, name, admin=admin)
    await management.owners.put_member(OPERATOR, "acme", "bob", Role.MEMBER)
    for owner in ("users/alice", "users/bob", "users/zoe", "organizations/acme", "organizations/zeta"):
        await house.new_key(owner)
    clock.now_us += 1000
    yield house
    await store.close()
