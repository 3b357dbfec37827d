"""Lists and sums over REST: filters, order, pages, usage by its groups, and who changed what."""

from typing import Any

import pytest
from serving import NOW_US, Operated

from keytoll.core.expiry import format_timestamp

ALICE = "/api/v1/users/alice"
DAY = "2026-11-27"


async def post(keytoll: Operated, path: str, body: object) -> dict[str, Any]:
    answer = await keytoll.http.post(path, json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def names(keytoll: Operated, query: str) -> list[str]:
    answer = await keytoll.http.get(f"{ALICE}/keys?{query}")
    assert answer.status_code == 200, answer.text
    return [key["name"] for key in answer.json()["data"]]


@pytest.fixture
async def keys(keytoll: Operated) -> list[dict[str, Any]]:
    """An unlimited key, a monthly one that expires, and a disabled one of a total that is spent."""
    later = format_timestamp(NOW_US + 3_600_000_000)
    bodies: list[dict[str, Any]] = [
        {"name": "Production"},
        {"name": "a test", "quota": {"kind": "monthly", "limit": "5"}, "expires_at": later},
        {"name": "product", "quota": {"kind": "total", "limit": "0"}, "disabled": True},
    ]
    made = []
    for body in bodies:
        made.append(await post(keytoll, f"{ALICE}/keys", body))
        keytoll.clock.now_us += 1_000_000
    return made


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["Production", "a test", "product"]),
        ("q=PROD", ["Production", "product"]),
        ("q=%25", []),
        ("status=active", ["Production", "a test"]),
        ("status=disabled", ["product"]),
        ("quota=monthly", ["a test"]),
        ("sort=-created_at", ["product", "a test", "Production"]),
        ("sort=expires_at", ["a test", "Production", "product"]),
        ("q=prod&sort=-created_at&limit=1", ["product"]),
    ],
)
async def test_keys_are_filtered_and_sorted(keytoll: Operated, keys: object, query: str, expected: list[str]) -> None:
    assert await names(keytoll, query) == expected


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "name", "-name", "expires_at", "-last_used_at"])
async def test_pages_hold_every_key_once_in_any_order(keytoll: Operated, keys: object, sort: str) -> None:
    found: list[str] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        query = f"sort={sort}&limit=1" + (f"&after={page['next']}" if page["next"] else "")
        page = (await keytoll.http.get(f"{ALICE}/keys?{query}")).json()
        found += [key["name"] for key in page["data"]]
    assert found == await names(keytoll, f"sort={sort}")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=gone", "status"),
        ("quota=daily", "quota"),
        ("sort=used", "sort"),
        ("q=", "q"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=1_0", "limit"),
        ("limit=1&limit=2", "limit"),
        ("colour=red", "colour"),
    ],
)
async def test_what_is_wrong_with_a_query_is_named(keytoll: Operated, keys: object, query: str, param: str) -> None:
    answer = await keytoll.http.get(f"{ALICE}/keys?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_usage_is_summed_by_what_is_asked_for(keytoll: Operated, keys: list[dict[str, Any]]) -> None:
    for key, output in ((keys[0], 1000), (keys[0], 0), (keys[1], 500)):
        await keytoll.charge(key, output=output)
    total = {
        "requests": 3,
        "input_tokens": 3000,
        "cached_input_tokens": 30,
        "cache_write_tokens": 0,
        "output_tokens": 1500,
        "reasoning_tokens": 0,
        "audio_input_tokens": 0,
        "audio_output_tokens": 0,
        "amount": "0.03003",
    }
    answer = (await keytoll.http.get(f"{ALICE}/usage?group_by=day,key")).json()
    told = {name: answer[name] for name in ("since", "until", "currency", "billing_time_zone", "total")}
    days = {"since": "2026-11-01", "until": DAY}
    assert told == days | {"currency": "CNY", "billing_time_zone": "Asia/Shanghai", "total": total}
    rows = {row["key_id"]: row for row in answer["data"]}
    first, second = rows[keys[0]["id"]], rows[keys[1]["id"]]
    assert (first["day"], first["key_name"], first["requests"], first["output_tokens"]) == (DAY, "Production", 2, 1000)
    assert (second["day"], second["key_name"], second["requests"]) == (DAY, "a test", 1)
    assert {"owner", "model"}.isdisjoint(first)


async def test_usage_without_groups_is_the_total_alone(keytoll: Operated, keys: list[dict[str, Any]]) -> None:
    await keytoll.charge(keys[0])
    answer = (await keytoll.http.get(f"{ALICE}/usage")).json()
    assert answer["total"]["requests"] == 1
    by_owner = (await keytoll.http.get("/api/v1/usage?group_by=owner")).json()
    assert [(row["owner"], row["requests"]) for row in by_owner["data"]] == [("users/alice", 1)]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("group_by=owner", "group_by"),
        ("group_by=day,day", "group_by"),
        ("group_by=day,", "group_by"),
        ("since=2026-11-31", "since"),
        ("since=2026-11-27T00:00:00Z", "since"),
        ("until=2026-11-26&since=2026-11-27", "since"),
        ("since=2024-01-01&until=2026-01-01", "since"),
    ],
)
async def test_what_is_wrong_with_days_and_groups_is_named(
    keytoll: Operated, keys: object, query: str, param: str
) -> None:
    answer = await keytoll.http.get(f"{ALICE}/usage?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_every_change_is_told_with_how_it_looked_before_and_after(keytoll: Operated) -> None:
    key = await post(keytoll, f"{ALICE}/keys", {"name": "a"})
    keytoll.clock.now_us += 1_000_000
    await keytoll.http.patch(f"/api/v1/keys/{key['id']}", json={"name": "b"})
    page = (await keytoll.http.get("/api/v1/audit-events?owner=users/alice&limit=1")).json()
    (edit,) = page["data"]
    assert (edit["action"], edit["actor"], edit["source"]) == ("key.edit", "operator", "operator.sock")
    assert (edit["subject"], edit["owner"], edit["at"]) == (key["id"], "users/alice", "2026-11-27T12:00:01Z")
    assert (edit["before"]["name"], edit["after"]["name"]) == ("a", "b")
    older = (await keytoll.http.get("/api/v1/audit-events", params={"after": page["next"]})).json()["data"]
    assert {event["action"] for event in older} == {"user.create", "key.create"}
    assert key["secret"] not in str(older)


async def test_requests_are_counted_by_operation_and_never_by_path(keytoll: Operated) -> None:
    await post(keytoll, f"{ALICE}/keys", {"name": "a"})
    await keytoll.http.get("/api/v1/nothing")
    counted = "keytoll_api_request_duration_seconds_count"
    value = keytoll.metrics.registry.get_sample_value
    assert value(counted, {"operation": "create_user_key", "status": "2xx"}) == 1
    assert value(counted, {"operation": "none", "status": "4xx"}) == 1
