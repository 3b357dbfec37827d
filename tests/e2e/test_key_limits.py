"""What a key is allowed, its rotation and its own reading of itself, through the real Envoy."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from e2e.conftest import CHAT, EMBEDDING, Gateway
from e2e.scripted import answering, completion
from keytoll.core.expiry import format_timestamp
from keytoll.core.months import to_us

LEFT = "x-keytoll-quota-remaining"
LARGE = "x" * 100_000


async def ask(client: httpx.AsyncClient, model: str = CHAT, content: str = "Hello", **headers: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 5}
    return await client.post("/v1/chat/completions", json=body, headers=headers)


def error(response: httpx.Response) -> tuple[int, str | None, str | None]:
    told = response.json()["error"]
    return response.status_code, told["code"], told["param"]


async def edited(gateway: Gateway, key: dict[str, Any], **changes: Any) -> None:
    async with gateway.stack.operator() as operator:
        (await operator.patch(f"/api/v1/keys/{key['id']}", json=changes)).raise_for_status()


async def rotated(gateway: Gateway, key: dict[str, Any], **body: Any) -> dict[str, Any]:
    async with gateway.stack.operator() as operator:
        answer = await operator.post(f"/api/v1/keys/{key['id']}/rotate", json=body)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


async def shown(gateway: Gateway, key: dict[str, Any]) -> dict[str, Any]:
    async with gateway.stack.operator() as operator:
        found: dict[str, Any] = (await operator.get(f"/api/v1/keys/{key['id']}")).raise_for_status().json()
    return found


@pytest.mark.parametrize("content", ["Hello", LARGE], ids=["small", "large"])
async def test_a_key_is_refused_from_elsewhere_whatever_headers_say(gateway: Gateway, content: str) -> None:
    """A large body is refused by its headers, before it is read."""
    key = await gateway.new_key(allowed_networks=["10.0.0.0/8", "2001:db8::/32"])
    forged = {"x-forwarded-for": "10.0.0.1", "x-real-ip": "10.0.0.1", "x-envoy-external-address": "10.0.0.1"}
    async with gateway.http(key) as client:
        assert error(await ask(client, content=content)) == (403, "ip_not_allowed", None)
        assert error(await ask(client, content=content, **forged)) == (403, "ip_not_allowed", None)
        assert error(await client.get("/v1/key")) == (403, "ip_not_allowed", None)
        await edited(gateway, key, allowed_networks=["127.0.0.0/8"])
        assert (await ask(client, content=content)).status_code == 200


@pytest.mark.parametrize("content", ["Hello", LARGE], ids=["small", "large"])
async def test_a_disabled_key_is_refused_at_once_and_taken_again_at_once(gateway: Gateway, content: str) -> None:
    key = await gateway.new_key()
    async with gateway.http(key) as client:
        assert (await ask(client)).status_code == 200
        await edited(gateway, key, disabled=True)
        assert error(await ask(client, content=content)) == (401, "invalid_api_key", None)
        await edited(gateway, key, disabled=False)
        assert (await ask(client, content=content)).status_code == 200


async def test_a_key_uses_and_sees_only_its_models(gateway: Gateway) -> None:
    key = await gateway.new_key(allowed_models=[EMBEDDING, "not-on-offer-yet"])
    async with gateway.http(key) as client:
        assert error(await ask(client)) == (403, "model_not_found", "model")
        assert error(await ask(client, model="not-on-offer-yet")) == (404, "model_not_found", "model")
        embedded = await client.post("/v1/embeddings", json={"model": EMBEDDING, "input": "x"})
        assert embedded.status_code == 200
        models = (await client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == [EMBEDDING]
        assert error(await client.get(f"/v1/models/{CHAT}")) == (404, "model_not_found", "model")
        assert (await client.get(f"/v1/models/{EMBEDDING}")).status_code == 200


async def test_a_key_tells_of_itself_and_each_answer_what_is_left(gateway: Gateway) -> None:
    key = await gateway.new_key(quota={"kind": "monthly", "limit": "100"})
    async with gateway.http(key) as client:
        answer = await ask(client)
        charge = await gateway.charge(key)
        own = await client.get("/v1/key")
    # As of the admission: not what it cost, but what it held.
    assert Decimal(answer.headers[LEFT]) == 100 - Decimal(charge["hold"])
    left = str(100 - Decimal(charge["amount"]))
    told = own.json()
    assert told == {
        "object": "key",
        "name": key["name"],
        "masked_key": key["masked_key"],
        "owner": "users/alice",
        "quota": {"kind": "monthly", "limit": "100.00"},
        "used": charge["amount"],
        "remaining": left,
        "resets_at": told["resets_at"],
        "expires_at": None,
        "allowed_models": None,
    }
    assert own.headers[LEFT] == left
    seen = await shown(gateway, key)
    assert seen["last_used_at"] == charge["admitted_at"]
    assert (seen["remaining"], seen["resets_at"]) == (left, told["resets_at"])


async def test_streams_tell_what_is_left_too_and_unlimited_keys_nothing(gateway: Gateway, key: dict[str, Any]) -> None:
    limited = await gateway.new_key(quota={"kind": "total", "limit": "100"})
    body = {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    async with gateway.http(limited) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert 0 < Decimal(answer.headers[LEFT]) < 100
    async with gateway.http(key) as client:
        assert LEFT not in (await ask(client)).headers
        assert LEFT not in (await client.get("/v1/key")).headers


@pytest.mark.parametrize("status", [200, 400])
async def test_no_backend_can_forge_what_is_left(gateway: Gateway, key: dict[str, Any], status: int) -> None:
    gateway.odd.script = answering(completion(), status=status, headers={LEFT: "1000000"})
    limited = await gateway.new_key(quota={"kind": "total", "limit": "100"})
    async with gateway.http(limited) as client:
        answer = await ask(client, model="odd")
    assert answer.status_code == status
    assert [Decimal(left) < 100 for left in answer.headers.get_list(LEFT)] == [True]
    async with gateway.http(key) as client:
        assert LEFT not in (await ask(client, model="odd")).headers


async def test_a_rotation_without_grace_ends_the_old_secret_at_once(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as old:
        assert (await ask(old)).status_code == 200
        new = await rotated(gateway, key)
        assert error(await ask(old)) == (401, "invalid_api_key", None)
        assert error(await ask(old, content=LARGE)) == (401, "invalid_api_key", None)
    async with gateway.http(new) as client:
        assert (await ask(client)).status_code == 200
    assert {charge["key_id"] for charge in await gateway.charges(key, 2)} == {key["id"]}


async def test_within_a_grace_both_secrets_spend_one_quota_and_a_delete_ends_both(gateway: Gateway) -> None:
    key = await gateway.new_key(quota={"kind": "total", "limit": "100"})
    until = format_timestamp(to_us_in_an_hour())
    new = await rotated(gateway, key, old_valid_until=until)
    async with gateway.http(key) as old, gateway.http(new) as client:
        assert (await ask(old)).status_code == 200
        assert (await ask(client)).status_code == 200
        charges = await gateway.charges(key, 2)
        used = sum(Decimal(charge["amount"]) for charge in charges)
        for each in (old, client):
            assert Decimal((await each.get("/v1/key")).json()["used"]) == used
        await gateway.delete_key(key["id"])
        for each in (old, client):
            assert error(await ask(each)) == (401, "invalid_api_key", None)


def to_us_in_an_hour() -> int:
    return to_us(datetime.now(UTC) + timedelta(hours=1))


async def test_no_secret_of_a_rotation_is_in_any_log_or_file(gateway: Gateway, key: dict[str, Any]) -> None:
    new = await rotated(gateway, key)
    async with gateway.http(new) as client:
        await ask(client)
    await gateway.charge(key)
    for path in gateway.run_dir.rglob("*"):
        assert not path.is_file() or json.dumps(new["secret"])[1:-1].encode() not in path.read_bytes(), path
