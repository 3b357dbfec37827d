"""Charges over REST."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from serving import NOW_US, PRICES, Operated

from keytoll.core.expiry import format_timestamp
from keytoll.core.ledger import Reported
from keytoll.core.pricing import Usage


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
                "kind": "charge",
                "decision_id": str(charge.entry.decision_id),
                "key_id": key["id"],
                "key_name": "production",
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
                "price_id": PRICES.id,
                "amount": "0.00425",
                "currency": "CNY",
                "hold": "0.10",
                "beyond_hold": "0.00",
                "measured": "reported",
                "status": 200,
                "attempts": 1,
                "request_bytes": 4001,
                "answer_bytes": 400,
                "events": None,
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


async def explained(keytoll: Operated, charge_id: str) -> dict[str, Any]:
    answer = await keytoll.http.get(f"/api/v1/charges/{charge_id}")
    assert answer.status_code == 200, answer.text
    charge: dict[str, Any] = answer.json()
    return charge


async def test_a_charge_is_explained_line_by_line(keytoll: Operated) -> None:
    """It is what the list tells of it, and the sum."""
    charge = await keytoll.charge(await make_key(keytoll, "production"), output=20)
    told = await explained(keytoll, charge.id)
    [listed] = (await keytoll.http.get("/api/v1/charges")).json()["data"]
    nothing = {"count": 0, "price": "0.00", "per": 1_000_000, "product": "0.00"}
    assert told == listed | {
        "refers_to": None,
        "price_from": None,
        "served": True,
        "lines": [
            {"item": "input", "count": 1000, "price": "4.00", "per": 1_000_000, "product": "0.004"},
            {"item": "cached_input", "count": 10, "price": "1.00", "per": 1_000_000, "product": "0.00001"},
            {"item": "cache_write"} | nothing,
            {"item": "output", "count": 20, "price": "12.00", "per": 1_000_000, "product": "0.00024"},
            {"item": "audio_input"} | nothing,
            {"item": "audio_output"} | nothing,
            {"item": "request", "count": 1, "price": "0.00", "per": 1, "product": "0.00"},
        ],
        "sum": "0.00425",
        "rounding": "0.00",
        "rounded": "0.00425",
        "capped": False,
        "adds_up": True,
        "estimates": [],
    }


async def test_rounding_half_to_even_is_told(keytoll: Operated) -> None:
    prices = replace(PRICES, input=500_000)
    for tokens, product, rounded in ((3, "0.0000000015", "0.000000002"), (5, "0.0000000025", "0.000000002")):
        entry = keytoll.entry(await make_key(keytoll, f"of {tokens}"), seconds=tokens)
        charge = await keytoll.settle(replace(entry, reported=Reported(Usage(input=tokens), output_told=True)), prices)
        told = await explained(keytoll, charge.id)
        assert (told["sum"], told["rounded"], told["amount"]) == (product, rounded, rounded)
        assert Decimal(told["sum"]) + Decimal(told["rounding"]) == Decimal(told["rounded"])


async def test_an_estimate_is_explained_by_its_bytes_events_and_rates_and_its_cut(keytoll: Operated) -> None:
    entry = replace(keytoll.entry(await make_key(keytoll, "production")), events=30, hold_nano=1_000_000)
    told = await explained(keytoll, (await keytoll.settle(entry)).id)
    assert told["estimates"] == [
        {"item": "input", "source": "request_bytes", "count": 4001, "rate": "0.250", "tokens": 1001},
        {"item": "output", "source": "events", "count": 30, "rate": "1.000", "tokens": 30},
    ]
    assert (told["measured"], told["rounded"], told["capped"]) == ("estimated", "0.004364", True)
    assert (told["amount"], told["hold"], told["beyond_hold"], told["adds_up"]) == ("0.001", "0.001", "0.00", True)


async def test_what_a_backend_reported_beyond_the_hold_is_charged_and_told(keytoll: Operated) -> None:
    entry = replace(keytoll.entry(await make_key(keytoll, "production")), hold_nano=1_000_000)
    charge = await keytoll.settle(replace(entry, reported=Reported(Usage(input=1000), output_told=True)))
    told = await explained(keytoll, charge.id)
    assert (told["amount"], told["beyond_hold"], told["capped"]) == ("0.004", "0.003", False)


async def test_a_hold_without_a_bound_is_null(keytoll: Operated) -> None:
    entry = replace(keytoll.entry(await make_key(keytoll, "production")), hold_nano=None)
    assert (await explained(keytoll, (await keytoll.settle(entry)).id))["hold"] is None


async def test_what_no_backend_served_has_no_sum(keytoll: Operated) -> None:
    charge = await keytoll.settle(replace(keytoll.entry(await make_key(keytoll, "production")), status=503))
    told = await explained(keytoll, charge.id)
    assert (told["served"], told["lines"], told["sum"], told["amount"]) == (False, [], "0.00", "0.00")


async def test_a_price_is_told_with_the_moment_it_applied_from(keytoll: Operated) -> None:
    """Also where the catalog has changed since."""
    model, key = "Qwen2.5-72B-Instruct", await make_key(keytoll, "production")
    other = replace(PRICES, input=9)
    await keytoll.store.note_prices([(model, 0, other), (model, NOW_US - 5_000_000, PRICES)], at_us=NOW_US)
    charge = await keytoll.charge(key)
    await keytoll.store.note_prices([(model, NOW_US + 5_000_000, other)], at_us=NOW_US)
    told = await explained(keytoll, charge.id)
    assert (told["price_from"], told["price_id"]) == ("2026-11-27T11:59:55Z", PRICES.id)


async def test_a_decision_whose_entry_never_came_is_listed_until_it_is_corrected(keytoll: Operated) -> None:
    key = await make_key(keytoll, "production")
    lost, late = keytoll.entry(key, seconds=1), replace(keytoll.entry(key, seconds=2), hold_nano=None)
    first, second = await keytoll.give_up(lost), await keytoll.give_up(late)

    async def listed(**query: str) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = (await keytoll.http.get("/api/v1/unsettled", params=query)).json()["data"]
        return data

    shown = {
        "id": first.id,
        "decision_id": str(lost.decision_id),
        "key_id": key["id"],
        "owner": "users/alice",
        "model": "Qwen2.5-72B-Instruct",
        "admitted_at": "2026-11-27T12:00:01Z",
        "hold": "0.10",
        "noted_at": "2026-11-27T13:00:01Z",
        "corrected_by": None,
    }
    assert [row["id"] for row in await listed()] == [second.id, first.id]
    correction = await keytoll.settle(replace(late, reported=Reported(Usage(input=1000), output_told=True)))
    assert await listed() == [shown]
    later, open_still = await listed(all="true")
    assert (later["id"], later["hold"], later["corrected_by"]) == (second.id, None, correction.id)
    assert open_still == shown
    told = await explained(keytoll, correction.id)
    assert (told["kind"], told["refers_to"], told["amount"]) == ("correction", second.id, "0.004")
    given_up = await explained(keytoll, second.id)
    assert (given_up["kind"], given_up["lines"], given_up["amount"], given_up["adds_up"]) == (
        "unsettled",
        [],
        "0.00",
        True,
    )
    charges = (await keytoll.http.get("/api/v1/charges")).json()["data"]
    assert [(charge["id"], charge["kind"]) for charge in charges] == [(correction.id, "correction")]


async def test_pages_of_unsettled_follow_each_other_without_gap_or_repeat(keytoll: Operated) -> None:
    key = await make_key(keytoll, "production")
    rows = [await keytoll.give_up(keytoll.entry(key, seconds=-number)) for number in range(5)]
    for everything in ("false", "true"):
        seen: list[str] = []
        query: dict[str, str | int] = {"limit": 2, "all": everything}
        for size in (2, 2, 1):
            page = (await keytoll.http.get("/api/v1/unsettled", params=query)).json()
            assert len(page["data"]) == size
            seen += [row["id"] for row in page["data"]]
            query["after"] = page["next"]
        assert (seen, page["next"]) == ([row.id for row in rows], None)


@pytest.mark.parametrize(
    ("query", "param"), [("all=perhaps", "all"), ("settled_later=true", "settled_later"), ("limit=0", "limit")]
)
async def test_a_wrong_query_of_unsettled_is_refused_by_name(keytoll: Operated, query: str, param: str) -> None:
    answer = await keytoll.http.get(f"/api/v1/unsettled?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("charge_id", ["chg_0", "x" * 1000, "%00", "键"])
async def test_a_charge_that_is_not_there_is_not_found(keytoll: Operated, charge_id: str) -> None:
    answer = await keytoll.http.get(f"/api/v1/charges/{charge_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_about_tells_what_a_client_needs_to_show_times_and_amounts(keytoll: Operated) -> None:
    assert (await keytoll.http.get("/api/v1/about")).json() == {
        "version": "1.2.3",
        "currency": "CNY",
        "billing_time_zone": "Asia/Shanghai",
        "base_url": None,
    }
