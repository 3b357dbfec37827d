"""Charges over REST."""

import pytest
from serving import Operated

from keytoll.core.expiry import format_timestamp


async def make_key(keytoll: Operated, name: str, owner: str = "users/alice") -> dict[str, str]:
    key: dict[str, str] = (await keytoll.http.post(f"/api/v1/{owner}/keys", json={"name": name})).json()
    return key


async def test_a_charge_is_told_whole(keytoll: Operated) -> None:
    key = await make_key(keytoll, "production")
    charge = await keytoll.charge(key, output=20)
    assert (await keytoll.http.get("/api/v1/charges")).json() == {
        "data": [
            {
                "id": charge.id,
                "decision_id": str(charge.entry.decision_id),
                "key_id": key["id"],
                "owner": "users/alice",
                "model": "Qwen2.5-72B-Instruct",
                "endpoint": "chat/completions",
                "input_tokens": 1000,
                "cached_input_tokens": 10,
                "cache_write_tokens": 0,
                "output_tokens": 20,
                "reasoning_tokens": 0,
                "audio_input_tokens": 0,
                "audio_output_tokens": 0,
                "amount": "0.00425",
                "currency": "CNY",
                "measured": "reported",
                "status": 200,
                "attempts": 1,
                "month": "2026-11",
                "admitted_at": format_timestamp(charge.entry.admitted_at_us),
                "settled_at": format_timestamp(charge.settled_at_us),
            }
        ],
        "next": None,
    }


async def test_charges_are_found_by_owner_key_and_time_newest_first(keytoll: Operated) -> None:
    alice, bob = await make_key(keytoll, "a"), await make_key(keytoll, "b", "organizations/bob")
    first, second = await keytoll.charge(alice, seconds=1), await keytoll.charge(bob, seconds=2)
    third = await keytoll.charge(alice, seconds=3)

    async def found(**query: str) -> list[str]:
        answer = await keytoll.http.get("/api/v1/charges", params=query)
        return [charge["id"] for charge in answer.json()["data"]]

    assert await found() == [third.id, second.id, first.id]
    assert await found(owner="users/alice") == [third.id, first.id]
    assert await found(key_id=bob["id"]) == [second.id]
    assert await found(since=format_timestamp(second.entry.admitted_at_us)) == [third.id, second.id]
    assert await found(owner="users/alice", since=format_timestamp(third.entry.admitted_at_us)) == [third.id]


async def test_pages_of_charges_follow_each_other_without_gap_or_repeat(keytoll: Operated) -> None:
    key = await make_key(keytoll, "production")
    made = [(await keytoll.charge(key, seconds=-number)).id for number in range(5)]
    seen: list[str] = []
    query: dict[str, str | int] = {"limit": 2}
    for size in (2, 2, 1):
        page = (await keytoll.http.get("/api/v1/charges", params=query)).json()
        assert len(page["data"]) == size
        seen += [charge["id"] for charge in page["data"]]
        query["after"] = page["next"]
    assert (seen, page["next"]) == (made, None)


async def test_a_deleted_keys_charges_stay(keytoll: Operated) -> None:
    key = await make_key(keytoll, "production")
    charge = await keytoll.charge(key)
    await keytoll.http.delete(f"/api/v1/keys/{key['id']}")
    assert [c["id"] for c in (await keytoll.http.get("/api/v1/charges")).json()["data"]] == [charge.id]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"owner": "alice"}, "owner"),
        ({"since": "2026-11-01"}, "since"),
        ({"since": "7d"}, "since"),
        ({"limit": "many"}, "limit"),
        ({"ower": "users/alice"}, "ower"),
        ({"after": "x" * 101}, "after"),
    ],
)
async def test_a_wrong_query_is_refused_by_name_rather_than_ignored(
    keytoll: Operated, query: dict[str, str], param: str
) -> None:
    answer = await keytoll.http.get("/api/v1/charges", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_about_tells_what_a_client_needs_to_show_times_and_amounts(keytoll: Operated) -> None:
    assert (await keytoll.http.get("/api/v1/about")).json() == {
        "version": "1.2.3",
        "currency": "CNY",
        "billing_time_zone": "Asia/Shanghai",
    }
