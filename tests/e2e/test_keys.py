"""The life of a key, as its callers see it."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest
from told import named

from e2e.conftest import CHAT, Gateway, until

ASK: list[Any] = [{"role": "user", "content": "Hello"}]


async def test_a_deleted_key_is_refused_at_once(gateway: Gateway, key: dict[str, Any]) -> None:
    """User report 2: the key is cached when it is deleted."""
    async with gateway.sdk(key) as client:
        await client.chat.completions.create(model=CHAT, messages=ASK)
        await gateway.delete_key(key["id"])
        with pytest.raises(openai.AuthenticationError) as raised:
            await client.chat.completions.create(model=CHAT, messages=ASK)
    assert raised.value.code == "invalid_api_key"
    assert await gateway.charge(key)


async def test_no_request_is_admitted_after_its_keys_delete_has_answered(gateway: Gateway, key: dict[str, Any]) -> None:
    """Requests are in flight all around the delete; what starts after its answer must fail."""
    statuses: list[tuple[bool, int]] = []
    deleted = asyncio.Event()

    async def call_on(client: httpx.AsyncClient) -> None:
        after = False
        while not after:
            after = deleted.is_set()
            response = await client.post("/v1/embeddings", json={"model": "bge-m3", "input": "x"})
            statuses.append((after, response.status_code))

    async with gateway.http(key) as client:
        callers = [asyncio.create_task(call_on(client)) for _ in range(20)]
        await until(lambda: _enough(statuses, 60))
        await gateway.delete_key(key["id"])
        deleted.set()
        await asyncio.gather(*callers)
    assert {status for after, status in statuses if after} == {401}
    assert {status for _, status in statuses} == {200, 401}


async def _enough(found: list[Any], number: int) -> bool:
    return len(found) >= number


async def test_a_key_works_until_its_expiry_and_not_after(gateway: Gateway) -> None:
    """User report 5: to the second."""
    expires_at = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    key = await gateway.new_key(expires_at=expires_at)
    async with gateway.http(key) as client:
        assert (await _ask(client)).status_code == 200

        async def refused() -> httpx.Response | None:
            response = await _ask(client)
            return response if response.status_code != 200 else None

        response = await until(refused)
    assert response.status_code == 401
    assert datetime.now(UTC) >= datetime.fromisoformat(expires_at)
    assert "expired at" in response.json()["error"]["message"]


async def _ask(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={"model": CHAT, "messages": ASK})


@pytest.mark.parametrize("kind", ["total", "monthly"])
async def test_a_spent_key_is_told_so_after_exactly_one_attempt(gateway: Gateway, kind: str) -> None:
    """User reports 12 and 30: SDKs must not retry what can't succeed."""
    key = await gateway.new_key(quota={"kind": kind, "limit": "0.000001"})
    attempts: list[httpx.Request] = []

    async def count(request: httpx.Request) -> None:
        attempts.append(request)

    http = httpx.AsyncClient(event_hooks={"request": [count]})
    async with gateway.sdk(key, http_client=http) as client:
        await client.chat.completions.create(model=CHAT, messages=ASK)
        await gateway.charge(key)
        attempts.clear()
        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(model=CHAT, messages=ASK)
    assert raised.value.code == "insufficient_quota"
    assert kind in str(raised.value)
    assert len(attempts) == 1


async def test_a_raised_limit_counts_from_the_next_request_on(gateway: Gateway) -> None:
    key = await gateway.new_key(quota={"kind": "total", "limit": "0"})
    async with gateway.http(key) as client:
        assert (await _ask(client)).status_code == 429
        async with gateway.stack.operator() as operator:
            quota = {"quota": {"kind": "total", "limit": "5"}}
            (await operator.patch(f"/api/v1/keys/{key['id']}", json=quota)).raise_for_status()
        assert (await _ask(client)).status_code == 200
        charge = await gateway.charge(key)
        async with gateway.stack.operator() as operator:
            listed = (await operator.get(f"/api/v1/keys/{key['id']}")).json()
    assert listed["used"] == charge["amount"]
    assert "secret" not in listed
    assert listed["masked_key"] == f"gw-sk-****{key['secret'][-4:]}"


async def test_a_name_in_any_script_reaches_refusals_unharmed(gateway: Gateway) -> None:
    """User report 7."""
    key = await gateway.new_key(name="España 生产 🚀", quota={"kind": "total", "limit": "0"})
    async with gateway.http(key) as client:
        response = await _ask(client)
    assert "España 生产 🚀" in response.json()["error"]["message"]


async def test_no_secret_is_in_any_log_or_file(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        await _ask(client)
        await client.post(f"/v1/nowhere?api_key={key['secret']}", json={})
    await gateway.charge(key)
    kept = [path for path in gateway.run_dir.rglob("*") if path.is_file()]
    assert any(path.name == "journal.jsonl" for path in kept)
    for path in kept:
        content = path.read_bytes()
        assert key["secret"].encode() not in content, path
        assert b"Hello" not in content or path.name == "backend.log", f"{path} holds a prompt"


async def test_the_journals_line_is_what_the_charge_says(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        await client.post("/v1/chat/completions?secret=1", json={"model": CHAT, "messages": ASK})
    charge = await gateway.charge(key)
    lines = (gateway.run_dir / "journal" / "journal.jsonl").read_text().splitlines()
    (record,) = [r for r in map(json.loads, lines) if r.get("decision_id") == charge["decision_id"]]
    assert record["path"] == "/v1/chat/completions"
    assert record["member"] == f"model/{CHAT}#0"
    assert named(record)["key_id"] == key["id"]
