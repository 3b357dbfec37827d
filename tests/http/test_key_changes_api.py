"""Keys over REST: what they are allowed, another secret for them, repeats of a change, and the paths of their owners."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from serving import NOW_US, Operated

from keytoll.core.expiry import format_timestamp
from keytoll.core.money import NANO, format_amount

ALICE, BOB, ACME = "/api/v1/users/alice/keys", "/api/v1/users/bob/keys", "/api/v1/organizations/acme/keys"
HOUR_US = 3_600_000_000
RESTRICTED: dict[str, Any] = {
    "disabled": True,
    "allowed_models": ["org/not-yet-on-offer", "m"],
    "allowed_networks": ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"],
}


async def created(keytoll: Operated, *, path: str = ALICE, **body: Any) -> dict[str, Any]:
    answer = await keytoll.http.post(path, json={"name": "production"} | body)
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


async def rotated(keytoll: Operated, key: Mapping[str, Any], **body: Any) -> dict[str, Any]:
    answer = await keytoll.http.post(f"/api/v1/keys/{key['id']}/rotate", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


# --- what a key is allowed ---


async def test_restrictions_are_told_as_they_were_given_and_taken_back_by_null(keytoll: Operated) -> None:
    key = await created(keytoll, **RESTRICTED)
    assert {name: key[name] for name in RESTRICTED} == RESTRICTED
    path = f"/api/v1/keys/{key['id']}"
    free = {"disabled": False, "allowed_models": None, "allowed_networks": None}
    assert free.items() <= (await keytoll.http.patch(path, json=free)).json().items()
    assert RESTRICTED.items() <= (await keytoll.http.patch(path, json=RESTRICTED)).json().items()
    named = (await keytoll.http.patch(path, json={"name": "other"})).json()
    assert RESTRICTED.items() <= named.items()
    assert (await keytoll.http.patch(path, json={"allowed_models": []})).json()["allowed_models"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allowed_networks", ["10.0.0.1/8"]),
        ("allowed_networks", ["everywhere"]),
        ("allowed_networks", []),
        ("allowed_networks", [f"10.0.{n}.0/24" for n in range(51)]),
        ("allowed_networks", "10.0.0.0/8"),
        ("allowed_models", ["a b"]),
        ("allowed_models", [f"m{n}" for n in range(101)]),
        ("allowed_models", "m"),
        ("disabled", "true"),
        ("disabled", None),
    ],
)
async def test_a_restriction_that_is_none_is_refused_by_field_and_nothing_changes(
    keytoll: Operated, field: str, value: object
) -> None:
    key = await created(keytoll)
    for answer in (
        await keytoll.http.post(ALICE, json={"name": "another", field: value}),
        await keytoll.http.patch(f"/api/v1/keys/{key['id']}", json={field: value}),
        await keytoll.http.patch(f"/api/v1/keys/{key['id']}?dry_run=true", json={field: value}),
    ):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field), answer.text
    listed = (await keytoll.http.get(ALICE)).json()["data"]
    assert listed == [{name: key[name] for name in key if name != "secret"}]


async def test_an_edit_of_a_restriction_is_in_force_when_it_is_answered(keytoll: Operated) -> None:
    key = await created(keytoll)
    assert await keytoll.checked(key["secret"])
    await keytoll.http.patch(f"/api/v1/keys/{key['id']}", json=RESTRICTED)
    stored = await keytoll.checked(key["secret"])
    assert stored is not None
    assert (stored.key.disabled, stored.key.allowed_models) == (True, ("org/not-yet-on-offer", "m"))
    assert stored.key.allowed_networks is not None
    assert stored.key.allowed_networks.hold("10.1.1.1")


async def test_use_and_what_remains_are_told(keytoll: Operated) -> None:
    key = await created(keytoll, quota={"kind": "total", "limit": "1"})
    charge = await keytoll.charge(key)
    shown = (await keytoll.http.get(f"/api/v1/keys/{key['id']}")).json()
    assert shown["last_used_at"] == format_timestamp(charge.entry.admitted_at_us)
    used_nano = charge.amount_nano
    assert (shown["used"], shown["remaining"]) == (format_amount(used_nano), format_amount(NANO - used_nano))
    assert shown["resets_at"] is None
    unlimited = await keytoll.http.patch(f"/api/v1/keys/{key['id']}", json={"quota": {"kind": "unlimited"}})
    assert unlimited.json()["remaining"] is None
    spent = await keytoll.http.patch(f"/api/v1/keys/{key['id']}", json={"quota": {"kind": "total", "limit": "0.001"}})
    assert spent.json()["remaining"] == "0.00"


# --- rotation ---


async def test_a_rotated_key_has_another_secret_at_once_and_all_else_stays(keytoll: Operated) -> None:
    key = await created(keytoll, quota={"kind": "total", "limit": "1"})
    charge = await keytoll.charge(key)
    await keytoll.checked(key["secret"])
    found = await rotated(keytoll, key)
    before, after = await keytoll.checked(key["secret"]), await keytoll.checked(found["secret"])
    assert before is None
    assert after is not None
    assert (after.key.id, after.totals.lifetime_nano) == (key["id"], charge.amount_nano)
    assert found["masked_key"] == f"gw-sk-****{found['secret'][-4:]}"
    assert (found["id"], found["used"]) == (key["id"], format_amount(charge.amount_nano))
    assert found["old_valid_until"] is None
    assert "secret" not in (await keytoll.http.get(f"/api/v1/keys/{key['id']}")).json()


async def test_a_body_may_be_left_out(keytoll: Operated) -> None:
    key = await created(keytoll)
    answer = await keytoll.http.post(f"/api/v1/keys/{key['id']}/rotate")
    assert answer.status_code == 200
    assert await keytoll.checked(key["secret"]) is None


async def test_the_old_secret_works_on_until_its_time_and_ends_with_a_second_rotation(keytoll: Operated) -> None:
    first = await created(keytoll)
    until = format_timestamp(NOW_US + HOUR_US)
    second = await rotated(keytoll, first, old_valid_until=until)
    assert second["old_valid_until"] == until
    keys = [await keytoll.checked(key["secret"]) for key in (first, second)]
    assert [stored and stored.key.id for stored in keys] == [first["id"]] * 2
    third = await rotated(keytoll, first, old_valid_until=until)
    found = [await keytoll.checked(key["secret"]) for key in (first, second, third)]
    assert [stored is not None for stored in found] == [False, True, True]
    keytoll.clock.now_us += HOUR_US
    assert (await keytoll.http.get(f"/api/v1/keys/{first['id']}")).json()["old_valid_until"] is None


async def test_edits_and_deletes_reach_a_key_by_both_of_its_secrets(keytoll: Operated) -> None:
    first = await created(keytoll)
    second = await rotated(keytoll, first, old_valid_until=format_timestamp(NOW_US + HOUR_US))
    secrets = (first["secret"], second["secret"])
    for secret in secrets:
        assert await keytoll.checked(secret)
    await keytoll.http.patch(f"/api/v1/keys/{first['id']}", json={"disabled": True})
    for secret in secrets:
        stored = await keytoll.checked(secret)
        assert stored is not None
        assert stored.key.disabled
    await keytoll.http.delete(f"/api/v1/keys/{first['id']}")
    assert [await keytoll.checked(secret) for secret in secrets] == [None, None]


@pytest.mark.parametrize("until", ["2020-01-01T00:00:00Z", format_timestamp(NOW_US), "tomorrow", 5])
async def test_an_end_of_the_old_secret_that_is_past_or_no_time_is_refused(keytoll: Operated, until: object) -> None:
    key = await created(keytoll)
    answer = await keytoll.http.post(f"/api/v1/keys/{key['id']}/rotate", json={"old_valid_until": until})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "old_valid_until")
    assert await keytoll.checked(key["secret"])


async def test_a_key_that_is_not_there_can_not_be_rotated(keytoll: Operated) -> None:
    assert (await keytoll.http.post("/api/v1/keys/key_0/rotate")).status_code == 404


# --- repeats ---


def once(id_: str = "try-1") -> dict[str, str]:
    return {"idempotency-key": id_}


async def test_a_repeat_answers_the_same_key_without_its_secret(keytoll: Operated) -> None:
    body = {"name": "production", "allowed_models": ["m"]}
    first = await keytoll.http.post(ALICE, json=body, headers=once())
    second = await keytoll.http.post(ALICE, json=dict(reversed(body.items())), headers=once())
    assert (first.status_code, second.status_code) == (201, 200)
    key = first.json()
    assert second.json() == {name: key[name] for name in key if name != "secret"}
    assert len((await keytoll.http.get(ALICE)).json()["data"]) == 1


async def test_of_repeats_at_the_same_time_one_makes_the_key(keytoll: Operated) -> None:
    posts = [keytoll.http.post(ALICE, json={"name": "production"}, headers=once()) for _ in range(10)]
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_another_body_under_the_same_id_is_told_and_makes_nothing(keytoll: Operated) -> None:
    await keytoll.http.post(ALICE, json={"name": "production"}, headers=once())
    answer = await keytoll.http.post(ALICE, json={"name": "another"}, headers=once())
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "Idempotency-Key")
    assert error["code"] == "idempotency_key_reused"
    assert len((await keytoll.http.get(ALICE)).json()["data"]) == 1


async def test_an_id_counts_for_its_owner_and_its_verb_only(keytoll: Operated) -> None:
    keys = [await keytoll.http.post(path, json={"name": "production"}, headers=once()) for path in (ALICE, BOB)]
    assert [answer.status_code for answer in keys] == [201, 201]
    rotating = await keytoll.http.post(f"{ALICE}/{keys[0].json()['id']}/rotate", json={}, headers=once())
    assert "secret" in rotating.json()


async def test_an_id_is_remembered_for_24_hours(keytoll: Operated) -> None:
    await keytoll.http.post(ALICE, json={"name": "production"}, headers=once())
    keytoll.clock.now_us += 24 * HOUR_US
    assert (await keytoll.http.post(ALICE, json={"name": "production"}, headers=once())).status_code == 200
    keytoll.clock.now_us += 1
    assert (await keytoll.http.post(ALICE, json={"name": "another"}, headers=once())).status_code == 201


async def test_a_refused_change_is_not_remembered(keytoll: Operated) -> None:
    await created(keytoll)
    assert (await keytoll.http.post(ALICE, json={"name": "production"}, headers=once())).status_code == 409
    assert (await keytoll.http.post(ALICE, json={"name": "another"}, headers=once())).status_code == 201


async def test_a_repeat_whose_key_was_deleted_makes_no_other(keytoll: Operated) -> None:
    key = (await keytoll.http.post(ALICE, json={"name": "production"}, headers=once())).json()
    await keytoll.http.delete(f"/api/v1/keys/{key['id']}")
    answer = await keytoll.http.post(ALICE, json={"name": "production"}, headers=once())
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_key_used")
    assert (await keytoll.http.get(ALICE)).json()["data"] == []


async def test_a_repeated_rotation_changes_nothing_more(keytoll: Operated) -> None:
    path = f"{ALICE}/{(await created(keytoll))['id']}/rotate"
    first = await keytoll.http.post(path, json={}, headers=once())
    second = await keytoll.http.post(path, json={}, headers=once())
    assert "secret" not in second.json()
    assert second.json()["masked_key"] == first.json()["masked_key"]
    assert await keytoll.checked(first.json()["secret"])


@pytest.mark.parametrize("id_", [b"", b"a b", b"a" * 256, "é".encode()])
async def test_an_id_of_another_form_is_refused(keytoll: Operated, id_: bytes) -> None:
    answer = await keytoll.http.post(ALICE, json={"name": "production"}, headers=[(b"idempotency-key", id_)])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
    twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert (await keytoll.http.post(ALICE, json={"name": "production"}, headers=twice)).status_code == 400
    assert (await keytoll.http.get(ALICE)).json()["data"] == []


# --- the paths of owners ---


@pytest.mark.parametrize("path", [ALICE, ACME])
async def test_a_key_is_shown_edited_rotated_and_deleted_below_its_owner(keytoll: Operated, path: str) -> None:
    key = await created(keytoll, path=path)
    own = f"{path}/{key['id']}"
    assert (await keytoll.http.get(own)).json()["id"] == key["id"]
    assert (await keytoll.http.patch(own, json={"name": "other"})).json()["name"] == "other"
    assert (await keytoll.http.patch(f"{own}?dry_run=true", json={"name": "third"})).json()["effects"]
    assert "secret" in (await keytoll.http.post(f"{own}/rotate")).json()
    assert (await keytoll.http.delete(own)).status_code == 204
    assert (await keytoll.http.get(own)).status_code == 404


@pytest.mark.parametrize("path", [BOB, ACME, "/api/v1/organizations/alice/keys", "/api/v1/users/%2e/keys"])
async def test_a_key_of_another_owner_is_not_there_and_stays_as_it_is(keytoll: Operated, path: str) -> None:
    key = await created(keytoll)
    foreign, own = f"{path}/{key['id']}", f"{ALICE}/{key['id']}"
    rotation = await keytoll.http.post(f"{own}/rotate", json={}, headers=once())
    before = (await keytoll.http.get(own)).json()
    answers = [
        await keytoll.http.get(foreign),
        await keytoll.http.patch(foreign, json={"name": "mine"}),
        await keytoll.http.patch(f"{foreign}?dry_run=true", json={"name": "mine"}),
        await keytoll.http.post(f"{foreign}/rotate", json={}, headers=once()),
        await keytoll.http.delete(foreign),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["error"]["code"] for answer in answers} == {"not_found"}
    assert (await keytoll.http.get(own)).json() == before
    assert await keytoll.checked(rotation.json()["secret"])
