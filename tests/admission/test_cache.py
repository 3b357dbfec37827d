"""The key cache: exact under changes that happen while a key is on its way from the store."""

import asyncio
from dataclasses import replace

import pytest

from keytoll.admission.cache import MISS, KeyCache, TooManyLoads
from keytoll.core.keys import Key
from keytoll.core.quota import Quota, Totals
from keytoll.store.base import Posted, StoredKey, StoreUnavailable


def key(number: int) -> Key:
    return Key(f"key_{number}", "users/a", f"n{number}", number.to_bytes(32), "7f2a", Quota(), None, 0)


class SlowStore:
    """A store whose reads see what is there when they start and answer when the test lets them."""

    def __init__(self) -> None:
        self.keys: dict[bytes, StoredKey] = {}
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.error: Exception | None = None

    def keep(self, number: int, spent: int = 0, revision: int = 0) -> bytes:
        stored = StoredKey(key(number), Totals(spent, {"2026-11": spent}), revision)
        self.keys[stored.key.digest] = stored
        return stored.key.digest

    async def key_by_digest(self, digest: bytes) -> StoredKey | None:
        self.reads += 1
        seen = self.keys.get(digest)
        self.started.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        return seen


def cache_of(store: SlowStore, **bounds: int) -> KeyCache:
    return KeyCache(store, **bounds)  # type: ignore[arg-type]


async def test_a_key_is_read_once_and_then_known() -> None:
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1)
    assert cache.find(digest) is MISS
    assert await cache.load(digest) == store.keys[digest] == cache.find(digest)
    assert store.reads == 1


async def test_an_unknown_key_is_remembered_too() -> None:
    store = SlowStore()
    cache = cache_of(store)
    assert await cache.load(b"x") is None
    assert cache.find(b"x") is None
    assert len(cache) == 1


async def test_many_at_once_ask_the_store_once_even_if_the_first_gives_up() -> None:
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1)
    store.gate.clear()
    first, *others = [asyncio.ensure_future(cache.load(digest)) for _ in range(50)]
    await store.started.wait()
    first.cancel()
    store.gate.set()
    assert await asyncio.gather(*others) == [store.keys[digest]] * 49
    assert store.reads == 1


async def test_a_key_that_is_deleted_while_it_is_read_is_not_seen_again() -> None:
    """User reports 1 and 2."""
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1)
    store.gate.clear()
    load = asyncio.ensure_future(cache.load(digest))
    await store.started.wait()
    del store.keys[digest]
    cache.forget(digest)
    store.gate.set()
    assert await load is None
    assert cache.find(digest) is None


async def test_a_cached_key_that_is_forgotten_is_asked_for_again() -> None:
    """User report 2."""
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1)
    await cache.load(digest)
    cache.forget(digest)
    assert cache.find(digest) is MISS
    cache.apply(Posted(revision=1, totals={"key_1": Totals(5)}))  # a charge of a forgotten key disturbs nothing


async def test_charges_reach_a_cached_key_once() -> None:
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1, spent=10, revision=4)
    await cache.load(digest)
    for _ in range(2):
        cache.apply(Posted(revision=6, totals={"key_1": Totals(30, {"2026-12": 7})}))
    stored = cache.find(digest)
    assert isinstance(stored, StoredKey)
    assert stored.totals == Totals(30, {"2026-11": 10, "2026-12": 7})


async def test_a_key_whose_charges_are_told_out_of_order_is_asked_for_again() -> None:
    """What was told first may have been about another month: neither is to be lost."""
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1, spent=10, revision=4)
    await cache.load(digest)
    cache.apply(Posted(revision=6, totals={"key_1": Totals(30, {"2026-12": 7})}))
    cache.apply(Posted(revision=5, totals={"key_1": Totals(23, {"2026-11": 23})}))
    assert cache.find(digest) is MISS


@pytest.mark.parametrize(("read_at", "spent"), [(4, 10), (5, 20)])
async def test_charges_posted_while_a_key_is_read_are_neither_lost_nor_doubled(read_at: int, spent: int) -> None:
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1, spent=spent, revision=read_at)
    store.gate.clear()
    load = asyncio.ensure_future(cache.load(digest))
    await store.started.wait()
    cache.apply(Posted(revision=5, totals={"key_1": Totals(20, {"2026-11": 20})}))
    store.gate.set()
    stored = await load
    assert stored is not None
    assert stored.totals == Totals(20, {"2026-11": 20})


async def test_a_flood_of_unknown_keys_pushes_out_no_known_one() -> None:
    store = SlowStore()
    cache, digest = cache_of(store, capacity=3), store.keep(1)
    await cache.load(digest)
    for number in range(100, 200):
        await cache.load(number.to_bytes(32))
    assert isinstance(cache.find(digest), StoredKey)
    assert len(cache) == 4


async def test_the_least_recently_used_key_makes_room() -> None:
    store = SlowStore()
    digests = [store.keep(number) for number in range(4)]
    cache = cache_of(store, capacity=3)
    for digest in digests[:3]:
        await cache.load(digest)
    cache.find(digests[0])
    await cache.load(digests[3])
    assert [cache.find(digest) is MISS for digest in digests] == [False, True, False, False]
    cache.apply(Posted(revision=9, totals={f"key_{n}": Totals(n) for n in range(4)}))
    assert isinstance(found := cache.find(digests[3]), StoredKey)
    assert found.totals.lifetime_nano == 3


async def test_loads_are_bounded_and_one_too_many_is_an_outage() -> None:
    store = SlowStore()
    cache = cache_of(store, loads=2)
    store.gate.clear()
    loads = [asyncio.ensure_future(cache.load(bytes([n]))) for n in range(2)]
    with pytest.raises(TooManyLoads):
        cache.load(b"third")
    store.gate.set()
    assert await asyncio.gather(*loads) == [None, None]
    assert await cache.load(b"third") is None


async def test_an_outage_reaches_the_callers_and_leaves_nothing_behind() -> None:
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1)
    store.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await cache.load(digest)
    store.error = None
    assert await cache.load(digest) == replace(store.keys[digest])


async def test_both_secrets_of_a_rotated_key_follow_its_totals_and_each_is_forgotten_alone() -> None:
    store = SlowStore()
    cache, digest = cache_of(store), store.keep(1, spent=10, revision=4)
    store.keys[b"old"] = store.keys[digest]
    for known in (digest, b"old"):
        await cache.load(known)
    cache.apply(Posted(revision=6, totals={"key_1": Totals(30, {"2026-11": 30})}))
    for known in (digest, b"old"):
        stored = cache.find(known)
        assert isinstance(stored, StoredKey)
        assert stored.totals.lifetime_nano == 30
    cache.forget(b"old")
    assert cache.find(b"old") is MISS
    assert cache.find(digest) == cache.known("key_1")
    cache.doubt(["key_1"])
    assert cache.find(digest) is MISS
    assert cache.known("key_1") is None


async def test_a_key_whose_one_entry_was_pushed_out_is_still_known_by_the_other() -> None:
    store = SlowStore()
    cache, digest = cache_of(store, capacity=2), store.keep(1)
    store.keys[b"old"] = store.keys[digest]
    for known in (b"old", digest, store.keep(2)):
        await cache.load(known)
    assert cache.find(b"old") is MISS
    assert cache.find(digest) == cache.known("key_1") == store.keys[digest]
