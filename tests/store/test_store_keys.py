"""Conformance of every store: keys."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from changes import keep_key, make_event
from store.builders import NOW_US, make_charge, make_key

from keytoll.core.access import Networks
from keytoll.core.keys import Key, KeyStatus
from keytoll.core.quota import Quota, QuotaKind, Totals
from keytoll.store.base import (
    AskedMeanwhile,
    Batch,
    KeyChanged,
    KeyQuery,
    KeySort,
    NameTaken,
    Once,
    Store,
    StoredKey,
    key_cursor,
)

UNLIMITED = Quota()
MONTHLY = Quota(QuotaKind.MONTHLY, 100_000_000_000)
TOTAL = Quota(QuotaKind.TOTAL, 0)


def restricted(key: Key) -> Key:
    """Return the key with every restriction that there is."""
    networks = Networks(("10.0.0.0/8", "2001:db8::/32"))
    return replace(key, disabled=True, allowed_models=("org/b:70b", "a"), allowed_networks=networks)


def make_once(key: Key, number: int = 1, at_us: int = NOW_US) -> Once:
    """Return that the key was asked for."""
    return Once(number.to_bytes(32), b"f" * 32, key.id, at_us)


async def list_keys(store: Store, query: KeyQuery, *, now_us: int = NOW_US) -> Sequence[StoredKey]:
    """Return the keys that match, in September."""
    return await store.list_keys(query, now_us=now_us, month="2026-09")


async def _ids(store: Store, *, owner: str | None = None, after: str | None = None, limit: int = 100) -> list[str]:
    return [stored.key.id for stored in await list_keys(store, KeyQuery(owner=owner, after=after, limit=limit))]


@pytest.mark.parametrize("quota", [Quota(), MONTHLY, TOTAL, Quota(QuotaKind.TOTAL, 9_000_000_000 * 10**9)])
@pytest.mark.parametrize("expires_at_us", [None, NOW_US])
async def test_a_key_is_found_by_digest_and_by_id_exactly_as_created(
    store: Store, quota: Quota, expires_at_us: int | None
) -> None:
    key = replace(make_key(quota=quota, name="生产 🔑 'quoted'"), expires_at_us=expires_at_us)
    await keep_key(store, key)
    for found in (await store.key_by_digest(key.digest), await store.key_by_id(key.id)):
        assert found is not None
        assert found.key == key
        assert found.totals == Totals()


async def test_what_a_key_is_allowed_and_who_made_it_is_kept(store: Store) -> None:
    key = replace(restricted(make_key()), created_by="alice 生产", old_digest=b"\3" * 32, old_valid_until_us=5)
    await keep_key(store, key)
    found = await store.key_by_id(key.id)
    assert found is not None
    assert found.key == key
    assert await store.update_key(
        replace(key, disabled=False, allowed_models=None, allowed_networks=None), event=make_event()
    )
    found = await store.key_by_id(key.id)
    assert found is not None
    assert (found.key.disabled, found.key.allowed_models, found.key.allowed_networks) == (False, None, None)


async def test_a_rotated_key_is_found_by_both_secrets_and_of_three_by_the_last_two(store: Store) -> None:
    key = make_key(quota=MONTHLY)
    await keep_key(store, key)
    first, second, third = key.digest, b"\4" * 32, b"\5" * 32
    key = replace(key, digest=second, last4="2222", old_digest=first, old_valid_until_us=NOW_US)
    assert await store.rotate_key(replace(key, name="other", owner="users/mallory", quota=Quota()), event=make_event())
    for digest in (first, second):
        found = await store.key_by_digest(digest)
        assert found is not None
        assert found.key == key  # and nothing but the secrets was written
    key = replace(key, digest=third, last4="3333", old_digest=second, old_valid_until_us=NOW_US + 1)
    assert await store.rotate_key(key, event=make_event())
    assert await store.key_by_digest(first) is None
    assert (await store.key_by_digest(second)) == (await store.key_by_digest(third)) == await store.key_by_id(key.id)
    assert await store.rotate_key(
        replace(key, digest=first, old_digest=None, old_valid_until_us=None), event=make_event()
    )
    assert [await store.key_by_digest(digest) for digest in (second, third)] == [None, None]


async def test_deleting_a_rotated_key_kills_both_secrets(store: Store) -> None:
    key = replace(make_key(), old_digest=b"\6" * 32, old_valid_until_us=NOW_US)
    await keep_key(store, key)
    assert await store.delete_key(key.id, deleted_at_us=NOW_US, event=make_event())
    assert [await store.key_by_digest(digest) for digest in key.digests] == [None, None]
    assert not await store.rotate_key(key, once=make_once(key), event=make_event())
    assert await store.asked_once(make_once(key).id) is None


async def test_what_was_asked_for_is_remembered_with_the_change_and_not_without(store: Store) -> None:
    key = make_key()
    once = make_once(key)
    assert await store.asked_once(once.id) is None
    await keep_key(store, key, once)
    assert await store.asked_once(once.id) == once
    with pytest.raises(NameTaken):
        await keep_key(store, make_key(name=key.name), make_once(key, 2))
    assert await store.asked_once(make_once(key, 2).id) is None
    assert await store.rotate_key(
        replace(key, digest=b"\7" * 32), once=make_once(key, 3, NOW_US + 1), event=make_event()
    )
    await store.forget_asked(before_us=NOW_US + 1)
    assert await store.asked_once(once.id) is None
    assert await store.asked_once(make_once(key, 3).id) == make_once(key, 3, NOW_US + 1)


async def test_a_key_was_last_used_at_its_newest_admission_that_was_settled(store: Store) -> None:
    key, other = make_key(), make_key()
    for each in (key, other):
        await keep_key(store, each)
    for times in ((5, 9, 7), (8,), ()):
        await store.post(Batch([make_charge(key_id=key.id, admitted_at_us=NOW_US + after_us) for after_us in times]))
        found = await store.key_by_id(key.id)
        assert found is not None
        assert found.last_used_at_us == NOW_US + 9
    untouched = await store.key_by_id(other.id)
    assert untouched is not None
    assert untouched.last_used_at_us is None


async def test_an_unknown_key_is_none(store: Store) -> None:
    assert await store.key_by_digest(b"\0" * 32) is None
    assert await store.key_by_id("key_unknown") is None


async def test_a_name_is_unique_for_its_owner_only(store: Store) -> None:
    await keep_key(store, make_key(owner="users/alice", name="production"))
    await keep_key(store, make_key(owner="users/bob", name="production"))
    with pytest.raises(NameTaken, match="production"):
        await keep_key(store, make_key(owner="users/alice", name="production"))
    assert len(await _ids(store)) == 2


async def test_of_callers_that_create_one_name_at_once_exactly_one_succeeds(store: Store) -> None:
    keys = [make_key(name="same") for _ in range(10)]
    results = await asyncio.gather(*(keep_key(store, key) for key in keys), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NameTaken"] * 9 + ["NoneType"]


async def test_another_key_with_the_same_secret_is_an_error_but_not_a_taken_name(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    with pytest.raises(Exception) as caught:
        await keep_key(store, replace(make_key(), digest=key.digest))
    assert not isinstance(caught.value, NameTaken)


async def test_an_update_writes_what_is_edited_and_nothing_else(store: Store) -> None:
    key = make_key(quota=MONTHLY)
    await keep_key(store, key)
    edited = replace(restricted(key), name="edited", quota=Quota(), expires_at_us=NOW_US + 1)
    frozen = replace(edited, owner="users/mallory", digest=b"\1" * 32, last4="zzzz", created_at_us=1, created_by="x")
    frozen = replace(frozen, old_digest=b"\2" * 32, old_valid_until_us=1)
    assert await store.update_key(frozen, event=make_event())
    found = await store.key_by_id(key.id)
    assert found is not None
    assert found.key == edited


async def test_an_update_can_keep_its_own_name_but_not_take_another_keys(store: Store) -> None:
    first, second = make_key(name="first"), make_key(name="second")
    await keep_key(store, first)
    await keep_key(store, second)
    assert await store.update_key(replace(second, quota=MONTHLY), event=make_event())
    with pytest.raises(NameTaken):
        await store.update_key(replace(second, name="first"), event=make_event())
    found = await store.key_by_id(second.id)
    assert found is not None
    assert found.key == replace(second, quota=MONTHLY)


async def test_an_unknown_key_can_be_neither_updated_nor_deleted(store: Store) -> None:
    assert not await store.update_key(make_key(), event=make_event())
    assert not await store.delete_key("key_unknown", deleted_at_us=NOW_US, event=make_event())


async def test_a_deleted_key_is_gone_for_every_method(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    assert await store.delete_key(key.id, deleted_at_us=NOW_US, event=make_event())
    assert await store.key_by_digest(key.digest) is None
    assert await store.key_by_id(key.id) is None
    assert await _ids(store) == await _ids(store, owner=key.owner) == []
    assert not await store.update_key(key, event=make_event())
    assert not await store.delete_key(key.id, deleted_at_us=NOW_US + 1, event=make_event())


async def test_the_name_of_a_deleted_key_is_free_again(store: Store) -> None:
    for _ in range(3):
        key = make_key(name="production")
        await keep_key(store, key)
        assert await store.delete_key(key.id, deleted_at_us=NOW_US, event=make_event())


async def test_the_secret_of_a_deleted_key_never_comes_back(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    await store.delete_key(key.id, deleted_at_us=NOW_US, event=make_event())
    with pytest.raises(Exception):  # noqa: B017 - which one is the driver's
        await keep_key(store, replace(make_key(), digest=key.digest))


async def test_lists_are_by_ascending_id_whatever_the_order_of_creation(store: Store) -> None:
    keys = [make_key(owner=f"users/{n % 2}") for n in range(6)]
    for key in reversed(keys):
        await keep_key(store, key)
    assert await _ids(store) == [key.id for key in keys]
    assert await _ids(store, owner="users/1") == [key.id for key in keys[1::2]]
    assert await _ids(store, owner="users/2") == []


@pytest.mark.parametrize("owner", [None, "users/alice"])
async def test_pages_hold_every_key_once_also_when_their_last_key_is_deleted(store: Store, owner: str | None) -> None:
    keys = [make_key() for _ in range(5)]
    for key in keys:
        await keep_key(store, key)
    first = await _ids(store, owner=owner, limit=2)
    await store.delete_key(first[-1], deleted_at_us=NOW_US, event=make_event())
    second = await _ids(store, owner=owner, after=first[-1], limit=2)
    third = await _ids(store, owner=owner, after=second[-1], limit=2)
    assert first + second + third == [key.id for key in keys]


async def test_a_listed_key_has_its_own_totals(store: Store) -> None:
    keys: list[Key] = [make_key() for _ in range(3)]
    for key in keys:
        await keep_key(store, key)
    posted = await store.post(Batch([make_charge(7, key_id=keys[1].id), make_charge(8, key_id=keys[2].id)]))
    listed = await list_keys(store, KeyQuery())
    assert [stored.totals for stored in listed] == [Totals(), Totals(7, {"2026-09": 7}), Totals(8, {"2026-09": 8})]
    assert {stored.revision for stored in listed} == {posted.revision}


# --- lists: what is asked for, and in which order ---


async def _names(store: Store, query: KeyQuery) -> list[str]:
    return [stored.key.name for stored in await list_keys(store, query)]


async def _keep_named(store: Store, *names: str, owner: str = "users/alice") -> list[Key]:
    keys = [make_key(name=name, owner=owner) for name in names]
    for key in keys:
        await keep_key(store, key)
    return keys


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("PROD", ["Production", "pre-prod"]),
        ("españa", ["ESPAÑA"]),
        ("strasse", ["Straße"]),
        ("%", ["100%_sure"]),
        ("_", ["100%_sure"]),
        ("'", []),
        ("", ["Production", "pre-prod", "ESPAÑA", "Straße", "100%_sure"]),
    ],
)
async def test_a_text_is_found_in_names_whatever_its_case_and_signs(store: Store, text: str, found: list[str]) -> None:
    await _keep_named(store, "Production", "pre-prod", "ESPAÑA", "Straße", "100%_sure")
    assert await _names(store, KeyQuery(text=text)) == found
    assert await _names(store, KeyQuery(owner="users/alice", text=text)) == found


async def test_a_key_is_found_by_its_new_name_and_not_by_its_old_one(store: Store) -> None:
    (key,) = await _keep_named(store, "before")
    assert await store.update_key(replace(key, name="After"), event=make_event())
    assert await _names(store, KeyQuery(text="after")) == ["After"]
    assert await _names(store, KeyQuery(text="before")) == []


async def test_keys_are_found_by_how_they_stand_each_in_one_way(store: Store) -> None:
    def key(name: str, quota: Quota = UNLIMITED, expires_at_us: int | None = None, *, disabled: bool = False) -> Key:
        return replace(make_key(name=name, quota=quota), expires_at_us=expires_at_us, disabled=disabled)

    limit = 10
    keys = [
        key("plain"),
        key("not yet over", expires_at_us=NOW_US + 1),
        key("over", expires_at_us=NOW_US),
        key("off", disabled=True),
        key("off and over", expires_at_us=NOW_US, disabled=True),
        key("blocked", TOTAL),
        key("all spent", Quota(QuotaKind.TOTAL, limit)),
        key("nearly spent", Quota(QuotaKind.TOTAL, limit + 1)),
        key("spent this month", Quota(QuotaKind.MONTHLY, limit)),
        key("spent in August", Quota(QuotaKind.MONTHLY, limit)),
        key("spent and over", Quota(QuotaKind.TOTAL, limit), NOW_US),
    ]
    for each in keys:
        await keep_key(store, each)
        month = "2026-08" if each.name == "spent in August" else "2026-09"
        await store.post(Batch([make_charge(limit, key_id=each.id, month=month)]))
    by_status = {status: await _names(store, KeyQuery(status=status)) for status in KeyStatus}
    assert by_status == {
        KeyStatus.DISABLED: ["off", "off and over"],
        KeyStatus.EXPIRED: ["over", "spent and over"],
        KeyStatus.SPENT: ["blocked", "all spent", "spent this month"],
        KeyStatus.ACTIVE: ["plain", "not yet over", "nearly spent", "spent in August"],
    }
    assert await _names(store, KeyQuery(quota=QuotaKind.MONTHLY)) == ["spent this month", "spent in August"]
    assert await _names(store, KeyQuery(quota=QuotaKind.MONTHLY, status=KeyStatus.SPENT)) == ["spent this month"]


@pytest.mark.parametrize("owner", [None, "users/alice"])
@pytest.mark.parametrize("descending", [False, True])
async def test_keys_are_listed_by_creation_name_expiry_and_use(
    store: Store, owner: str | None, descending: bool
) -> None:
    keys = await _keep_named(store, "b", "A", "c")
    await store.update_key(replace(keys[2], expires_at_us=NOW_US), event=make_event())
    await store.update_key(replace(keys[1], expires_at_us=NOW_US + 1), event=make_event())
    for number, key in enumerate((keys[1], keys[0])):
        await store.post(Batch([make_charge(key_id=key.id, admitted_at_us=NOW_US + number)]))
    orders = {
        KeySort.CREATED_AT: ["b", "A", "c"],
        KeySort.NAME: ["A", "b", "c"],
        KeySort.EXPIRES_AT: ["c", "A", "b"],
        KeySort.LAST_USED_AT: ["c", "A", "b"],
    }
    for sort, names in orders.items():
        found = await _names(store, KeyQuery(owner=owner, sort=sort, descending=descending))
        assert found == (names[::-1] if descending else names)


@pytest.mark.parametrize("sort", KeySort)
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("owner", [None, "users/alice"])
async def test_pages_in_any_order_hold_every_key_once_also_when_they_are_used_meanwhile(
    store: Store, sort: KeySort, descending: bool, owner: str | None
) -> None:
    keys = await _keep_named(store, "a", "B", "b", "a ", "c", "ß", "d")
    for number, key in enumerate(keys[2:]):
        await store.post(Batch([make_charge(key_id=key.id, admitted_at_us=NOW_US + number // 2)]))
        await store.update_key(replace(key, expires_at_us=NOW_US + number // 2), event=make_event())
    query = KeyQuery(owner=owner, sort=sort, descending=descending, limit=2)
    everything = [stored.key.id for stored in await list_keys(store, replace(query, limit=100))]
    pages: list[str] = []
    after: str | None = None
    while page := await list_keys(store, replace(query, after=after)):
        pages += [stored.key.id for stored in page]
        after = key_cursor(page[-1], sort)
        if descending:  # ascending, what is used meanwhile rightly comes once more
            await store.post(Batch([make_charge(key_id=page[-1].key.id, admitted_at_us=NOW_US + 1000)]))
    assert pages == everything
    assert len(pages) == len(keys)


@pytest.mark.parametrize("after", ["key_unknown", "", "@", "key_1@x", "key_1@", "@5", "key_1@99999999999999999999"])
@pytest.mark.parametrize("sort", KeySort)
async def test_a_cursor_that_is_none_is_no_error(store: Store, sort: KeySort, after: str) -> None:
    await _keep_named(store, "a")
    for descending in (False, True):
        assert len(await list_keys(store, KeyQuery(sort=sort, descending=descending, after=after))) <= 1


async def test_the_names_of_keys_are_known_of_deleted_ones_too(store: Store) -> None:
    first, second = await _keep_named(store, "first", "second")
    await store.delete_key(first.id, deleted_at_us=NOW_US, event=make_event())
    asked = [first.id, second.id, first.id, "key_unknown"]
    assert await store.key_names(asked) == {first.id: "first", second.id: "second"}
    assert await store.key_names([]) == {}
    assert await store.key_named("users/alice", "second") == second.id
    assert await store.key_named("users/alice", "first") is None
    assert await store.key_named("users/bob", "second") is None


@pytest.mark.parametrize("sort", [KeySort.NAME, KeySort.EXPIRES_AT])
async def test_a_cursor_tells_nothing_of_another_owners_key(store: Store, sort: KeySort) -> None:
    """Where a page began would tell whether that key's name or expiry comes before that of one's own."""
    own, other = make_key(owner="users/alice", name="m"), make_key(owner="users/bob", name="a")
    for key in (own, other):
        await keep_key(store, replace(key, expires_at_us=NOW_US + ord(key.name)))
    for descending in (False, True):
        query = KeyQuery(owner="users/alice", sort=sort, descending=descending, after=other.id)
        assert await list_keys(store, query) == []


async def test_a_change_of_what_has_changed_since_is_refused(store: Store) -> None:
    key = make_key()
    await keep_key(store, key)
    mine, theirs = replace(key, name=f"{key.name} mine"), replace(key, disabled=True)
    assert await store.update_key(theirs, event=make_event(), before=key)
    with pytest.raises(KeyChanged):
        await store.update_key(mine, event=make_event(), before=key)
    with pytest.raises(KeyChanged):
        await store.rotate_key(replace(key, digest=b"n" * 32), event=make_event(), before=key)
    assert await store.update_key(replace(mine, disabled=True), event=make_event(), before=theirs)
    assert not await store.update_key(gone := make_key(), event=make_event(), before=gone)


async def test_what_is_asked_for_twice_at_once_is_done_once(store: Store) -> None:
    first, second = make_key(), make_key()
    once = make_once(first)
    await keep_key(store, first, once)
    with pytest.raises(AskedMeanwhile):
        await keep_key(store, second, replace(once, key_id=second.id))
    assert await store.key_by_id(second.id) is None
    with pytest.raises(AskedMeanwhile):
        await store.rotate_key(replace(first, digest=b"n" * 32), event=make_event(), once=once)
