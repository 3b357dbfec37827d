"""A change is in force when it returns, and never half of it, whatever happens meanwhile."""

import asyncio
from collections.abc import Awaitable
from functools import partial

import pytest
from changes import OPERATOR
from serving import Operated

from keytoll.core.audit import AuditEvent
from keytoll.core.keys import Key
from keytoll.core.quota import Quota, QuotaKind
from keytoll.management import KeyChanges, KeyNotFound
from keytoll.store.base import StoreUnavailable

LIMIT = Quota(QuotaKind.TOTAL, 5)


async def made(keytoll: Operated) -> tuple[Key, str]:
    stored, secret = await keytoll.management.keys.create(
        OPERATOR, owner="users/alice", name="production", quota=Quota(), expires_at_us=None
    )
    assert secret is not None
    return stored.key, secret


async def test_edits_at_the_same_time_all_take_effect(keytoll: Operated) -> None:
    """An edit reads, then writes: none may write back what another has just changed."""
    key, secret = await made(keytoll)
    edit = partial(keytoll.management.keys.edit, OPERATOR)
    await asyncio.gather(
        edit(key.id, KeyChanges(name="other")),
        edit(key.id, KeyChanges(quota=LIMIT)),
        edit(key.id, KeyChanges(expires_at_us=keytoll.clock() + 1)),
    )
    stored = await keytoll.checked(secret)
    assert stored is not None
    assert (stored.key.name, stored.key.quota) == ("other", LIMIT)
    assert stored.key.expires_at_us == keytoll.clock() + 1


async def test_of_deletes_at_the_same_time_one_finds_the_key(keytoll: Operated) -> None:
    key, _ = await made(keytoll)
    deletes = [keytoll.management.keys.delete(OPERATOR, key.id) for _ in range(3)]
    results = await asyncio.gather(*deletes, return_exceptions=True)
    assert results.count(None) == 1
    assert sum(isinstance(result, KeyNotFound) for result in results) == 2


async def test_a_delete_whose_caller_left_is_in_force_all_the_same(keytoll: Operated) -> None:
    """Were it cut between store and cache, the key would go on being admitted from memory."""
    key, secret = await made(keytoll)
    await keytoll.checked(secret)
    deleting = asyncio.create_task(keytoll.management.keys.delete(OPERATOR, key.id))
    await asyncio.sleep(0)  # lets it begin
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    async with asyncio.timeout(5):
        while await keytoll.checked(secret) is not None:
            await asyncio.sleep(0)


async def test_a_change_whose_answer_was_lost_is_looked_up_anew(
    keytoll: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may have kept a change and failed only to say so: memory must not go on with the old state."""
    key, secret = await made(keytoll)
    await keytoll.checked(secret)
    update = keytoll.store.update_key

    async def update_and_fail(changed: Key, *, event: AuditEvent, before: Key) -> bool:
        await update(changed, event=event, before=before)
        raise StoreUnavailable("the connection broke")

    monkeypatch.setattr(keytoll.store, "update_key", update_and_fail)
    with pytest.raises(StoreUnavailable):
        await keytoll.management.keys.edit(OPERATOR, key.id, KeyChanges(quota=LIMIT))
    stored = await keytoll.checked(secret)
    assert stored is not None
    assert stored.key.quota == LIMIT


async def test_a_check_that_races_a_delete_sees_the_key_before_it_returned_or_not_at_all(keytoll: Operated) -> None:
    for _ in range(20):
        key, secret = await made(keytoll)
        checks: list[Awaitable[object]] = [asyncio.ensure_future(keytoll.checked(secret)) for _ in range(5)]
        await keytoll.management.keys.delete(OPERATOR, key.id)
        assert await keytoll.checked(secret) is None
        await asyncio.gather(*checks)
        assert await keytoll.checked(secret) is None
