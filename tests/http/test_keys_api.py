"""Keys over REST: the contract, and that a change is in force when it is answered."""

from typing import Any

import pytest
from serving import NOW_US, Operated

from keytoll import management
from keytoll.core.expiry import format_timestamp
from keytoll.core.holds import KeyHolds
from keytoll.core.secrets import KEY_PREFIX, is_well_formed

ALICE = "/api/v1/users/alice/keys"


async def create(keytoll: Operated, *, path: str = ALICE, **body: Any) -> dict[str, Any]:
    answer = await keytoll.http.post(path, json={"name": "production"} | body)
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


async def refused(keytoll: Operated, body: object, *, status: int = 400) -> dict[str, Any]:
    answer = await keytoll.http.post(ALICE, json=body)
    assert answer.status_code == status, answer.text
    assert (await keytoll.http.get("/api/v1/keys")).json()["data"] == []
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


async def test_a_created_key_is_told_whole_with_its_secret_once(keytoll: Operated) -> None:
    key = await create(keytoll, quota={"kind": "monthly", "limit": "100"}, expires_at="2026-12-01T00:00:00+08:00")
    secret = key.pop("secret")
    assert is_well_formed(KEY_PREFIX, secret)
    assert key == {
        "id": key["id"],
        "name": "production",
        "owner": "users/alice",
        "masked_key": f"gw-sk-****{secret[-4:]}",
        "quota": {"kind": "monthly", "limit": "100.00"},
        "used": "0.00",
        "remaining": "100.00",
        "resets_at": "2026-11-30T16:00:00Z",
        "expires_at": "2026-11-30T16:00:00Z",
        "disabled": False,
        "allowed_models": None,
        "allowed_networks": None,
        "created_at": format_timestamp(NOW_US),
        "created_by": "operator",
        "last_used_at": None,
        "old_valid_until": None,
    }
    assert key["id"].startswith("key_")
    assert (await keytoll.http.get(f"/api/v1/keys/{key['id']}")).json() == key
    assert (await keytoll.http.get(ALICE)).json() == {"data": [key], "next": None}


async def test_a_key_without_quota_and_expiry_is_unlimited_and_never_expires(keytoll: Operated) -> None:
    key = await create(keytoll, path="/api/v1/organizations/acme/keys")
    assert key["owner"] == "organizations/acme"
    assert key["quota"] == {"kind": "unlimited", "limit": None}
    assert key["expires_at"] is None


async def test_an_answer_with_a_secret_is_not_cached(keytoll: Operated) -> None:
    answer = await keytoll.http.post(ALICE, json={"name": "production"})
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


async def test_names_of_any_script_are_kept_as_they_are(keytoll: Operated) -> None:
    """User report 7."""
    key = await create(keytoll, name="España 生产 🚀")
    assert (await keytoll.http.get(f"/api/v1/keys/{key['id']}")).json()["name"] == "España 生产 🚀"


@pytest.mark.parametrize("name", ["x" * 1000, "", "  ", "a\0b", "a\nb", "\x1b[31m"])
async def test_empty_long_and_control_names_are_refused_by_field(keytoll: Operated, name: str) -> None:
    """User report 7."""
    error = await refused(keytoll, {"name": name})
    assert (error["param"], error["code"]) == ("name", "invalid_value")


async def test_a_name_with_a_lone_surrogate_is_refused_by_field(keytoll: Operated) -> None:
    answer = await keytoll.http.post(
        ALICE, content=rb'{"name": "a\ud800"}', headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"name": "a", "qouta": {"kind": "total", "limit": "1"}}, "qouta", "unknown_parameter"),
        ({"name": "a", "quota": {"kind": "total", "limit": "1", "x": 1}}, "quota.x", "unknown_parameter"),
        ({"name": "a", "quota": {"kind": "daily", "limit": "1"}}, "quota.kind", "invalid_value"),
        ({"name": "a", "quota": {"limit": "1"}}, "quota.kind", "missing_required_parameter"),
        ({"name": "a", "quota": {"kind": "monthly"}}, "quota.limit", "invalid_value"),
        ({"name": "a", "quota": {"kind": "unlimited", "limit": "1"}}, "quota.limit", "invalid_value"),
        ({"name": "a", "quota": {"kind": "total", "limit": 100}}, "quota.limit", "invalid_value"),
        ({"name": "a", "quota": {"kind": "total", "limit": "-5"}}, "quota.limit", "invalid_value"),
        ({"name": "a", "quota": {"kind": "total", "limit": "1e3"}}, "quota.limit", "invalid_value"),
        ({"name": "a", "quota": {"kind": "total", "limit": "9000000000.000000001"}}, "quota.limit", "invalid_value"),
        ({"name": "a", "quota": {"kind": "total", "limit": "0.0000000001"}}, "quota.limit", "invalid_value"),
        ({"name": "a", "quota": None}, "quota", "invalid_value"),
        ({"name": "a", "quota": "unlimited"}, "quota", "invalid_value"),
        ({"name": 5}, "name", "invalid_value"),
        ({"name": None}, "name", "invalid_value"),
        ({}, "name", "missing_required_parameter"),
        ({"name": "a", "expires_at": 1767225600000}, "expires_at", "invalid_value"),
        ({"name": "a", "expires_at": "1767225600000"}, "expires_at", "invalid_value"),
        ({"name": "a", "expires_at": "2026-11-27T20:00:00+08:00"}, "expires_at", "invalid_value"),
        ({"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "invalid_value"),
        ({"name": "a", "expires_at": "2026-12-31"}, "expires_at", "invalid_value"),
        ({"name": "a", "expires_at": "12026-12-31T00:00:00Z"}, "expires_at", "invalid_value"),
    ],
)
async def test_what_is_wrong_is_refused_by_field_and_makes_no_key(
    keytoll: Operated, body: object, param: str, code: str
) -> None:
    """User reports 6, 8 and 11: an expiry in milliseconds or past, a misspelt field, a negative limit among others."""
    error = await refused(keytoll, body)
    assert (error["param"], error["code"]) == (param, code)
    assert error["message"].startswith(f"{param}: ")


async def test_an_amount_as_a_number_is_told_to_be_a_string(keytoll: Operated) -> None:
    """A JSON number may have been rounded before it came."""
    error = await refused(keytoll, {"name": "a", "quota": {"kind": "total", "limit": 0.1}})
    assert error["message"] == "quota.limit: must be a string"


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        ("0", "0.00"),
        ("3542971632", "3542971632.00"),
        ("9000000000", "9000000000.00"),
        ("0.000000001", "0.000000001"),
        ("8999999999.999999999", "8999999999.999999999"),
    ],
)
async def test_limits_from_0_to_nine_billion_are_kept_exactly(keytoll: Operated, limit: str, kept: str) -> None:
    """User reports 11 and 14: a limit of 0 is a limit, not unlimited, and large ones are exact beyond 32 bits."""
    key = await create(keytoll, quota={"kind": "total", "limit": limit})
    assert key["quota"] == {"kind": "total", "limit": kept}


async def test_a_far_expiry_is_taken(keytoll: Operated) -> None:
    """User report 6."""
    assert (await create(keytoll, expires_at="9998-12-31T23:59:59Z"))["expires_at"] == "9998-12-31T23:59:59Z"


@pytest.mark.parametrize("name", ["a b", "-a", "a" * 65, "%C3%A9", "a%00"])
async def test_an_owner_must_have_a_proper_name(keytoll: Operated, name: str) -> None:
    answer = await keytoll.http.post(f"/api/v1/users/{name}/keys", json={"name": "production"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "owner")
    assert (await keytoll.http.get("/api/v1/keys")).json()["data"] == []


async def test_two_keys_of_an_owner_cant_share_a_name_but_those_of_two_owners_can(keytoll: Operated) -> None:
    await create(keytoll)
    await create(keytoll, path="/api/v1/users/bob/keys")
    answer = await keytoll.http.post(ALICE, json={"name": "production"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (409, "name", "name_taken")


async def test_a_deleted_key_is_refused_by_the_very_next_check(keytoll: Operated) -> None:
    key = await create(keytoll)
    assert await keytoll.checked(key["secret"]) is not None
    answer = await keytoll.http.delete(f"/api/v1/keys/{key['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await keytoll.checked(key["secret"]) is None


async def test_the_name_of_a_deleted_key_is_free_again(keytoll: Operated) -> None:
    key = await create(keytoll)
    await keytoll.http.delete(f"/api/v1/keys/{key['id']}")
    await create(keytoll)


async def test_an_edit_is_seen_by_the_very_next_check(keytoll: Operated) -> None:
    key = await create(keytoll)
    await keytoll.checked(key["secret"])
    body = {"name": "other", "quota": {"kind": "total", "limit": "0"}, "expires_at": "2026-12-01T00:00:00Z"}
    edited = (await keytoll.http.patch(f"/api/v1/keys/{key['id']}", json=body)).json()
    assert edited["quota"] == {"kind": "total", "limit": "0.00"}
    assert edited == (await keytoll.http.get(f"/api/v1/keys/{key['id']}")).json()
    stored = await keytoll.checked(key["secret"])
    assert stored is not None
    assert stored.key.name == "other"
    assert stored.key.quota.limit_nano == 0
    assert stored.key.expires_at_us == 1_796_083_200_000_000


async def test_an_edit_leaves_what_it_doesnt_name_and_null_means_never(keytoll: Operated) -> None:
    key = await create(keytoll, quota={"kind": "total", "limit": "1"}, expires_at="2026-12-01T00:00:00Z")
    path = f"/api/v1/keys/{key['id']}"
    del key["secret"]
    assert (await keytoll.http.patch(path, json={})).json() == key
    assert (await keytoll.http.patch(path, json={"expires_at": None})).json() == key | {"expires_at": None}


async def test_an_expired_key_can_still_be_edited(keytoll: Operated) -> None:
    key = await create(keytoll, expires_at="2026-12-01T00:00:00Z")
    keytoll.clock.now_us += 86_400_000_000 * 30
    edited = (await keytoll.http.patch(f"/api/v1/keys/{key['id']}", json={"name": "old"})).json()
    assert (edited["name"], edited["expires_at"]) == ("old", "2026-12-01T00:00:00Z")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"name": None}, 400, "name"),
        ({"name": "taken"}, 409, "name"),
        ({"quota": {"kind": "monthly", "limit": "-1"}}, 400, "quota.limit"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
        ({"owner": "users/bob"}, 400, "owner"),
        ({"secret": "x"}, 400, "secret"),
    ],
)
async def test_a_wrong_edit_is_refused_by_field_and_changes_nothing(
    keytoll: Operated, body: object, status: int, param: str
) -> None:
    await create(keytoll, name="taken")
    key = await create(keytoll)
    answer = await keytoll.http.patch(f"/api/v1/keys/{key['id']}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    del key["secret"]
    assert (await keytoll.http.get(f"/api/v1/keys/{key['id']}")).json() == key


async def test_a_dry_run_tells_what_an_edit_would_do_and_changes_nothing(keytoll: Operated) -> None:
    key = await create(keytoll, quota={"kind": "monthly", "limit": "100"})
    path = f"/api/v1/keys/{key['id']}"
    await keytoll.charge(key, month="2026-10")
    await keytoll.charge(key, month="2026-11")
    keytoll.holds[key["id"]] = KeyHolds().plus("2026-11", 20_000_000)
    await keytoll.checked(key.pop("secret"))
    before = (await keytoll.http.get(path)).json()
    body = {"name": "other", "quota": {"kind": "total", "limit": "0.01"}, "expires_at": "2026-12-01T00:00:00Z"}
    answer = await keytoll.http.patch(path, json=body, params={"dry_run": "true"})
    assert (answer.status_code, (await keytoll.http.get(path)).json()) == (200, before)
    preview = answer.json()
    assert preview.keys() == {"before", "after", "effects", "from"}
    assert (preview["before"], preview["from"]) == (before, format_timestamp(NOW_US))
    assert preview["effects"] == [
        'The key is called "other" instead of "production"; its secret stays the same.',
        (
            "From now on a limit of ¥0.01 applies to all that the key spends,"
            " since its creation at 2026-11-27T20:00:00+08:00."
        ),
        "Of it ¥0.00802 is used and ¥0.00198 remains.",
        "It never resets.",
        "The key is not blocked by its quota.",
        "It expires at 2026-12-01T08:00:00+08:00: requests are refused from then on.",
        (
            "1 request is under way, holding at most ¥0.02;"
            " what is under way finishes and is charged, whatever is edited."
        ),
        "With them the spending may reach ¥0.02802, ¥0.01802 beyond the limit.",
        "Until enough of them have finished, further requests are told to try again.",
    ]
    assert (await keytoll.http.patch(path, json=body)).json() == preview["after"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"name": "taken"}, 409, "name"),
        ({"name": "\n"}, 400, "name"),
        ({"quota": {"kind": "monthly", "limit": "-1"}}, 400, "quota.limit"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
        ({"owner": "users/bob"}, 400, "owner"),
    ],
)
async def test_a_dry_run_is_refused_just_as_the_edit_would_be(
    keytoll: Operated, body: object, status: int, param: str
) -> None:
    for name in ("taken", "other", "third"):
        keytoll.clock.now_us += 1000
        await create(keytoll, name=name)
    key = await create(keytoll)
    path = f"/api/v1/keys/{key['id']}"
    dry = await keytoll.http.patch(path, json=body, params={"dry_run": "true"})
    wet = await keytoll.http.patch(path, json=body)
    assert (dry.status_code, dry.json()["error"]["param"]) == (status, param)
    assert (dry.status_code, dry.json()) == (wet.status_code, wet.json())


async def test_a_dry_run_finds_a_taken_name_among_however_many(
    keytoll: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is free if another owner has it, or the key itself, or a deleted one."""
    monkeypatch.setattr(management, "MAX_PAGE", 2)
    made = [await create(keytoll, name=f"key {number}") for number in range(5)]
    await create(keytoll, name="bob's", path="/api/v1/users/bob/keys")
    await keytoll.http.delete(f"/api/v1/keys/{made[1]['id']}")

    async def status(name: str) -> int:
        path = f"/api/v1/keys/{made[0]['id']}?dry_run=true"
        return (await keytoll.http.patch(path, json={"name": name})).status_code

    assert [await status(f"key {number}") for number in range(6)] == [200, 200, 409, 409, 409, 200]
    assert await status("bob's") == 200


@pytest.mark.parametrize("query", ["dry_run=perhaps", "dryrun=true", "dry-run=true", "dry_run="])
async def test_a_dry_run_that_is_misspelt_is_refused_rather_than_done(keytoll: Operated, query: str) -> None:
    key = await create(keytoll)
    path = f"/api/v1/keys/{key['id']}"
    answer = await keytoll.http.patch(f"{path}?{query}", json={"name": "other"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])
    assert (await keytoll.http.get(path)).json()["name"] == "production"


async def test_a_dry_run_of_what_knows_none_is_refused_rather_than_done(keytoll: Operated) -> None:
    key = await create(keytoll)
    path = f"/api/v1/keys/{key['id']}"
    deleted = await keytoll.http.delete(path, params={"dry_run": "true"})
    made = await keytoll.http.post(ALICE, json={"name": "other"}, params={"dry_run": "true"})
    for answer in (deleted, made):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dry_run")
    assert len((await keytoll.http.get(ALICE)).json()["data"]) == 1


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_key_that_is_not_there_is_not_found(keytoll: Operated, method: str) -> None:
    answer = await keytoll.http.request(method, "/api/v1/keys/key_0", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_used_is_this_month_under_a_monthly_quota_and_all_there_was_otherwise(keytoll: Operated) -> None:
    """A charge of October doesn't count in November, and a switch of kinds is exact."""
    key = await create(keytoll, quota={"kind": "monthly", "limit": "100"})
    path = f"/api/v1/keys/{key['id']}"
    await keytoll.charge(key, month="2026-10", output=1000)  # 0.004 + 0.00001 + 0.012
    await keytoll.charge(key, month="2026-11")
    assert (await keytoll.http.get(path)).json()["used"] == "0.00401"
    total = await keytoll.http.patch(path, json={"quota": {"kind": "total", "limit": "100"}})
    assert total.json()["used"] == "0.02002"
    unlimited = await keytoll.http.patch(path, json={"quota": {"kind": "unlimited"}})
    assert unlimited.json()["used"] == "0.02002"


async def test_a_new_month_starts_at_the_billing_zones_midnight(keytoll: Operated) -> None:
    key = await create(keytoll, quota={"kind": "monthly", "limit": "100"})
    await keytoll.charge(key)
    midnight_us = 1_796_054_400_000_000  # 2026-12-01T00:00:00+08:00
    keytoll.clock.now_us = midnight_us - 1
    assert (await keytoll.http.get(f"/api/v1/keys/{key['id']}")).json()["used"] == "0.00401"
    keytoll.clock.now_us = midnight_us
    assert (await keytoll.http.get(f"/api/v1/keys/{key['id']}")).json()["used"] == "0.00"


async def test_pages_follow_each_other_without_gap_or_repeat(keytoll: Operated) -> None:
    made = []
    for number in range(5):
        keytoll.clock.now_us += 1000
        made.append((await create(keytoll, name=f"key {number}"))["id"])
    seen: list[str] = []
    query: dict[str, str | int] = {"limit": 2}
    for size in (2, 2, 1):
        page = (await keytoll.http.get(ALICE, params=query)).json()
        assert len(page["data"]) == size
        seen += [key["id"] for key in page["data"]]
        query["after"] = page["next"]
    assert (seen, page["next"]) == (made, None)


async def test_a_list_holds_only_its_owners_keys(keytoll: Operated) -> None:
    await create(keytoll)
    await create(keytoll, path="/api/v1/organizations/alice/keys")
    assert [key["owner"] for key in (await keytoll.http.get(ALICE)).json()["data"]] == ["users/alice"]
    assert len((await keytoll.http.get("/api/v1/keys")).json()["data"]) == 2
    assert (await keytoll.http.get("/api/v1/users/nobody/keys")).json() == {"data": [], "next": None}


@pytest.mark.parametrize(("query", "param"), [("limit=0", "limit"), ("limit=1001", "limit"), ("page=2", "page")])
async def test_a_wrong_query_is_refused_by_name(keytoll: Operated, query: str, param: str) -> None:
    answer = await keytoll.http.get(f"/api/v1/keys?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
