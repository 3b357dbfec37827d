"""A PostgreSQL server that is killed, and its standby that takes over: what was acknowledged is there."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from changes import keep_key
from postgres_server import PostgresServer, postgres_server
from store.builders import make_charge, make_key

from keytoll.core.ledger import Charge
from keytoll.store.base import Batch, Posted, StoreUnavailable
from keytoll.store.postgres import PostgresStore
from keytoll.store.postgres.database import Bounds

QUICK = Bounds(connect_s=2, statement_s=0.5, free_s=1)
PATIENCE_S = 20


@asynccontextmanager
async def a_store_on(primary: PostgresServer, standby: PostgresServer) -> AsyncIterator[PostgresStore]:
    """A store by a URL that names both, on a primary that acknowledges what its standby has."""
    name = (await primary.new_database()).rpartition("/")[2]
    await primary.administer("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await primary.administer("SELECT pg_reload_conf()")
    both = primary.url(name).replace(f":{primary.port}", f":{primary.port},127.0.0.1:{standby.port}")
    store = await PostgresStore.open(f"{both}?target_session_attrs=read-write", QUICK)
    try:
        yield store
    finally:
        await store.close()


async def test_after_a_failover_the_store_has_what_was_acknowledged_and_goes_on_at_the_new_primary() -> None:
    with postgres_server() as primary, postgres_server(following=primary) as standby:
        async with a_store_on(primary, standby) as store:
            key = make_key()
            await keep_key(store, key)
            acknowledged: list[Charge] = []
            posting = asyncio.create_task(post_until_it_fails(store, acknowledged))
            while len(acknowledged) < 50 and not posting.done():
                await asyncio.sleep(0)
            primary.stop(signal.SIGQUIT)
            await posting
            await standby.administer("SELECT pg_promote()")
            posted = await post(store, acknowledged)
            assert (len(posted.charges), posted.repeated) == (0, len(acknowledged))
            assert await store.key_by_id(key.id) is not None
            assert len((await post(store, [make_charge(1)])).charges) == 1


async def test_without_its_standby_nothing_is_acknowledged_and_what_was_written_counts_once() -> None:
    with postgres_server() as primary, postgres_server(following=primary) as standby:
        async with a_store_on(primary, standby) as store:
            standby.stop(signal.SIGQUIT)
            charge = make_charge(1)
            with pytest.raises(StoreUnavailable):
                await store.post(Batch([charge]))
            with pytest.raises(StoreUnavailable):
                await keep_key(store, make_key())
            standby.start()
            posted = await post(store, [charge])
            assert (len(posted.charges), posted.repeated) == (0, 1)


async def post_until_it_fails(store: PostgresStore, acknowledged: list[Charge]) -> None:
    while True:
        charge = make_charge(1)
        try:
            await store.post(Batch([charge]))
        except StoreUnavailable:
            return
        acknowledged.append(charge)


async def post(store: PostgresStore, charges: Sequence[Charge]) -> Posted:
    """Post charges, again and again until they are acknowledged."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(StoreUnavailable):
                return await store.post(Batch(charges))
