"""Nothing is admitted that was sent after its key's end was answered, with a thousand requests in flight all the time."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from posting import calling_by_hand
from starlette.responses import JSONResponse, Response

from e2e.conftest import Gateway, until
from e2e.scripted import Asked, completion

CALLERS = 1000
KEYS_OF_A_KIND = 10
KINDS = ("deleted", "rotated", "disabled", "organization deleted")
BODY = b'{"model": "bge-m3", "input": "x"}'


@dataclass(frozen=True, slots=True)
class Call:
    """A request, by the clock that all processes share: when it was sent, and what it got."""

    sent_s: float
    status: int


@dataclass(slots=True)
class Ending:
    """A key that callers use until its end was answered, and once more. `ended_at` is when, by the clock of the ledger."""

    kind: str
    key: Mapping[str, Any]
    calls: list[Call] = field(default_factory=list)
    ended_s: float | None = None
    ended_at: datetime | None = None

    @property
    def admitted(self) -> int:
        """How many of its requests were answered."""
        return sum(call.status == 200 for call in self.calls)

    def end(self) -> None:
        """Note that its end was answered."""
        self.ended_s, self.ended_at = time.monotonic(), datetime.now(UTC)


async def test_no_request_is_admitted_that_was_sent_after_its_keys_end_was_answered(gateway: Gateway) -> None:
    """User reports 2 and 3: its key was deleted, rotated or disabled, or the whole organization was deleted."""
    async with _admin(gateway, "ender", "ending") as admin:
        keys = [await _endings(gateway, kind) for kind in KINDS]
        every = [ending for of_a_kind in keys for ending in of_a_kind]
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(_call_until_the_end(gateway, every[number % len(every)]))
            await until(lambda: _in_use(every))
            await asyncio.to_thread(_end_all, gateway, admin, keys)
    for ending in every:
        assert ending.ended_s is not None
        later = [call.status for call in ending.calls if call.sent_s >= ending.ended_s]
        assert len(later) >= CALLERS // len(every), ending.kind
        assert set(later) == {401}, ending.kind
        assert {call.status for call in ending.calls} == {200, 401}, ending.kind
    await _assert_charged(gateway, every)


@pytest.mark.parametrize("owner", ["users/leaver", "organizations/leaving"])
async def test_what_runs_when_its_owner_is_deleted_finishes_and_is_charged_to_it(gateway: Gateway, owner: str) -> None:
    key, deleted = await gateway.new_key(owner), asyncio.Event()

    async def answer_later(_: Asked) -> Response:
        await deleted.wait()
        return JSONResponse(completion())

    gateway.odd.script = answer_later
    ask = {"model": "odd", "messages": [{"role": "user", "content": "Hello"}]}
    async with gateway.http(key) as caller, gateway.stack.operator() as operator:
        running = asyncio.create_task(caller.post("/v1/chat/completions", json=ask))
        await until(lambda: _asked(gateway))
        (await operator.delete(f"/api/v1/{owner}")).raise_for_status()
        assert (await caller.post("/v1/chat/completions", json=ask)).status_code == 401
        deleted.set()
        assert (await running).json()["usage"]["total_tokens"] == 10
        charge = await gateway.charge(key)
        usage = (await operator.get(f"/api/v1/{owner}/usage", params={"group_by": "key"})).json()
    assert (charge["owner"], charge["input_tokens"], charge["output_tokens"]) == (owner, 7, 3)
    assert usage["total"] == {**usage["total"], "requests": 1, "amount": charge["amount"]}
    assert [row["key_name"] for row in usage["data"]] == [key["name"]]


async def _asked(gateway: Gateway) -> bool:
    return bool(gateway.odd.asked)


async def _endings(gateway: Gateway, kind: str) -> Sequence[Ending]:
    owner = "organizations/ending" if kind == "organization deleted" else "users/ender"
    return [Ending(kind, await gateway.new_key(owner)) for _ in range(KEYS_OF_A_KIND)]


async def _call_until_the_end(gateway: Gateway, ending: Ending) -> None:
    """Call on one connection, one request after another, until one was sent after the key's end."""
    port, secret = gateway.stack.settings.ports.data, ending.key["secret"]
    async with calling_by_hand(port, secret=secret, path="/v1/embeddings") as caller:
        ended = False
        while not ended:
            ended, sent_s = ending.ended_s is not None, time.monotonic()
            ending.calls.append(Call(sent_s, (await caller.post(BODY)).status))


async def _in_use(every: Sequence[Ending]) -> bool:
    """Return whether all callers have had an answer, and so ask for the second time."""
    return all(len(ending.calls) >= CALLERS // len(every) for ending in every)


def _end_all(gateway: Gateway, admin: httpx.Client, keys: Sequence[Sequence[Ending]]) -> None:
    """End all keys, a key of each kind in turn; then the organization, whose keys end together.

    In a thread of its own, so that an answer is noted when it comes, however busy the callers are.
    """
    deleted, rotated, disabled, of_organization = keys
    for delete, rotate, disable in zip(deleted, rotated, disabled, strict=True):
        _change(admin, "DELETE", delete)
        _change(admin, "POST", rotate, "/rotate", json={})
        _change(admin, "PATCH", disable, json={"disabled": True})
    transport = httpx.HTTPTransport(uds=str(gateway.run_dir / "operator.sock"))
    with httpx.Client(transport=transport, base_url="http://keytoll") as operator:
        operator.delete("/api/v1/organizations/ending").raise_for_status()
        for ending in of_organization:
            ending.end()


def _change(admin: httpx.Client, method: str, ending: Ending, path: str = "", **options: Any) -> None:
    admin.request(method, f"/{ending.key['owner']}/keys/{ending.key['id']}{path}", **options).raise_for_status()
    ending.end()


async def _assert_charged(gateway: Gateway, every: Sequence[Ending]) -> None:
    """All that was answered is charged to its key, nothing else, and nothing that was admitted after the key's end."""

    async def counted() -> bool:
        async with gateway.stack.operator() as operator:
            since = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
            usage = (await operator.get("/api/v1/usage", params={"since": since, "group_by": "key"})).json()
        requests = {row["key_id"]: row["requests"] for row in usage["data"]}
        return all(requests.get(ending.key["id"]) == ending.admitted for ending in every)

    await until(counted)
    async with gateway.stack.operator() as operator:
        for ending in every:
            newest = await operator.get("/api/v1/charges", params={"key_id": ending.key["id"], "limit": 1})
            assert ending.ended_at is not None
            assert datetime.fromisoformat(newest.json()["data"][0]["admitted_at"]) <= ending.ended_at


@asynccontextmanager
async def _admin(gateway: Gateway, user: str, organization: str) -> AsyncIterator[httpx.Client]:
    """A client of the management listener, as a new person who is an admin of a new organization."""
    token = await _sign_up(gateway, user)
    async with gateway.stack.operator() as operator:
        organized = await operator.post("/api/v1/organizations", json={"name": organization, "admin": user})
        organized.raise_for_status()
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=gateway.stack.api_url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


async def _sign_up(gateway: Gateway, user: str) -> str:
    async with gateway.stack.operator() as operator:
        (await operator.post("/api/v1/users", json={"name": user})).raise_for_status()
        token: str = (await operator.post(f"/api/v1/users/{user}/access-token/reset")).json()["secret"]
    return token
