"""Posts at the same time, whatever the order in which they touch the same totals."""

import asyncio
import random

from store.builders import make_charge, unique

from keytoll.store.base import Batch, ChargeQuery, Store


async def test_posts_that_touch_the_same_totals_in_opposite_orders_all_end_and_lose_nothing(store: Store) -> None:
    """User report 28, its half about deadlocks: no order of keys and owners makes two posts wait for each other."""
    owners, keys = [unique("users/o") for _ in range(3)], [unique("key_") for _ in range(5)]
    pairs = [(key, owner) for key in keys for owner in owners]
    batches = [[make_charge(1, key_id=key, owner=owner) for key, owner in pairs] for _ in range(40)]
    for number, batch in enumerate(batches):
        batch.sort(key=lambda charge: (charge.entry.key_id, charge.entry.owner), reverse=number % 2 == 1)
        if number % 5 == 0:
            random.Random(number).shuffle(batch)
    async with asyncio.timeout(60):
        posted = await asyncio.gather(*(store.post(Batch(batch)) for batch in batches))
    assert sum(len(result.charges) for result in posted) == len(batches) * len(pairs)
    assert len(await store.list_charges(ChargeQuery(limit=1000))) == len(batches) * len(pairs)
    for owner in owners:
        assert await store.owner_totals(owner) == {"2026-09": len(batches) * len(keys)}
