"""The listener for people, through the real Envoy: who is believed, from where they come, and what ends when."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest

from e2e.conftest import CHAT, Gateway, gateway_in
from keytoll.http.guesses import FAILURES

ASK = {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}]}
WRONG = "gw-at-" + "0" * 49

_names = count(1)


@dataclass(frozen=True, slots=True)
class Person:
    """A person of a test's own, who is the admin of an organization of its own."""

    name: str
    organization: str
    token: str

    @property
    def auth(self) -> dict[str, str]:
        """The header that signs them in."""
        return {"authorization": f"Bearer {self.token}"}


@asynccontextmanager
async def people(gateway: Gateway, *, source: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
    """A client of the listener for people, from an address of this machine."""
    transport = httpx.AsyncHTTPTransport(local_address=source)
    async with httpx.AsyncClient(transport=transport, base_url=gateway.stack.console_url, timeout=20) as client:
        yield client


async def signed_up(gateway: Gateway) -> Person:
    number = next(_names)
    # Names of this file's own: other tests sign people up at the same gateway.
    name, organization = f"visitor-{number}", f"guild-{number}"
    async with gateway.stack.operator() as operator:
        (await operator.post("/api/v1/users", json={"name": name})).raise_for_status()
        wanted = {"name": organization, "admin": name}
        (await operator.post("/api/v1/organizations", json=wanted)).raise_for_status()
        return Person(name, organization, await reset(operator, name))


async def reset(operator: httpx.AsyncClient, name: str) -> str:
    answer = await operator.post(f"/api/v1/users/{name}/access-token/reset")
    return str(answer.raise_for_status().json()["secret"])


@pytest.fixture
async def person(gateway: Gateway) -> Person:
    return await signed_up(gateway)


async def events(gateway: Gateway, owner: str) -> list[dict[str, Any]]:
    async with gateway.stack.operator() as operator:
        found: list[dict[str, Any]] = (await operator.get("/api/v1/audit-events", params={"owner": owner})).json()[
            "data"
        ]
    return found


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"].startswith("application/json"), answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


async def test_the_console_is_served_to_everybody_under_a_strict_policy(gateway: Gateway) -> None:
    async with people(gateway) as client:
        page = await client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-request-id"]


async def test_a_person_makes_a_key_and_calls_with_it(gateway: Gateway, person: Person) -> None:
    async with people(gateway) as client:
        made = await client.post(f"/api/v1/users/{person.name}/keys", json={"name": "x"}, headers=person.auth)
        key = made.json()
        async with gateway.http(key) as caller:
            assert (await caller.post("/v1/chat/completions", json=ASK)).status_code == 200
        await gateway.charge(key)
        usage = (await client.get(f"/api/v1/users/{person.name}/usage?group_by=key", headers=person.auth)).json()
        charges = (await client.get(f"/api/v1/users/{person.name}/charges", headers=person.auth)).json()
    assert [row["key_id"] for row in usage["data"]] == [key["id"]]
    assert usage["total"]["amount"] == charges["data"][0]["amount"]


async def test_forged_headers_tell_nothing(gateway: Gateway, person: Person) -> None:
    """Neither where somebody comes from, nor that Check had let a caller through."""
    key = await gateway.new_key()
    forged = {
        "x-kt-source": "203.0.113.9",
        "X-KT-Key-Id": key["id"],
        "x-forwarded-for": "203.0.113.9",
        "x-envoy-external-address": "203.0.113.9",
        "x-real-ip": "203.0.113.9",
    }
    async with people(gateway, source="127.0.0.7") as client:
        assert (await client.get("/api/v1/me", headers=forged)).status_code == 401
        assert (await client.get("/%761/key", headers=forged)).status_code == 401
        await client.post(f"/api/v1/users/{person.name}/keys", json={"name": "x"}, headers=person.auth | forged)
    made = (await events(gateway, f"users/{person.name}"))[0]
    assert (made["action"], made["actor"], made["source"]) == ("key.create", f"users/{person.name}", "127.0.0.7")


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/models", "/v1/key", "/v1/chat/completions"])
async def test_models_are_not_called_here(gateway: Gateway, key: dict[str, Any], path: str) -> None:
    async with people(gateway) as client:
        answer = await client.get(path, headers={"authorization": f"Bearer {key['secret']}"})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/api/v1/me", "/api/v1/keys", "/", "/console/index.html"])
async def test_management_is_not_reached_by_the_callers_listener(
    gateway: Gateway, person: Person, key: dict[str, Any], path: str
) -> None:
    async with gateway.http() as client:
        by_token = await client.get(path, headers=person.auth)
        by_key = await client.get(path, headers={"authorization": f"Bearer {key['secret']}"})
    assert (by_token.status_code, error_of(by_token)["code"]) == (401, "invalid_api_key")
    assert (by_key.status_code, error_of(by_key)["code"]) == (404, "not_found")


async def test_a_token_calls_no_models_and_a_key_manages_nothing(
    gateway: Gateway, person: Person, key: dict[str, Any]
) -> None:
    async with gateway.http() as client:
        called = await client.post("/v1/chat/completions", json=ASK, headers=person.auth)
    async with people(gateway) as client:
        managed = await client.get("/api/v1/me", headers={"authorization": f"Bearer {key['secret']}"})
    assert (called.status_code, error_of(called)["code"]) == (401, "invalid_api_key")
    assert (managed.status_code, error_of(managed)["code"]) == (401, "invalid_access_token")
    assert "access token" in error_of(managed)["message"]


async def test_a_body_over_the_bound_is_refused(gateway: Gateway, person: Person) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 1024

    async with people(gateway) as client:
        headers = person.auth | {"content-type": "application/json"}
        path = f"/api/v1/users/{person.name}/keys"
        declared = await client.post(path, content=b" " * 300 * 1024, headers=headers)
        streamed = await client.post(path, content=chunks(), headers=headers)
    for answer in (declared, streamed):
        assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /api/v1/keys%2fx HTTP/1.1", "", 400),
        ("GET /api/v1/me HTTP/1.1", "x-large: " + "x" * 40_000 + "\r\n", 431),
        ("GET /api/v1/me HTTP/1.1", "x_kt_source: 1\r\n", 400),
        ("GET /api/v1/me HTTP/1.1", "connection: upgrade\r\nupgrade: websocket\r\n", 403),
        ("GET /api/v1/me HTTP/1.0", "", 426),
        ("POST /api/v1/users HTTP/1.1", "content-length: 3\r\ntransfer-encoding: chunked\r\n", 400),
        ("nonsense", "", 400),
    ],
)
async def test_what_envoy_refuses_is_told_in_the_one_shape(
    gateway: Gateway, request_line: str, headers: str, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.stack.settings.ports.management)
    writer.write(f"{request_line}\r\nhost: x\r\n{headers}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    error = json.loads(await reader.readexactly(length))["error"]
    writer.close()
    assert int(head.split()[1]) == status
    assert b"application/json" in head
    assert error.keys() == {"message", "type", "param", "code"}


async def test_who_guesses_is_held_up_and_nobody_at_another_address(gateway: Gateway, person: Person) -> None:
    wrong = {"authorization": f"Bearer {WRONG}"}
    newcomer = await signed_up(gateway)
    async with people(gateway, source="127.0.0.21") as guesser, people(gateway, source="127.0.0.22") as other:
        assert (await guesser.get("/api/v1/me", headers=person.auth)).status_code == 200
        tried = 0
        while (await guesser.get("/api/v1/me", headers=wrong)).status_code == 401:
            tried += 1
        assert FAILURES <= tried < 2 * FAILURES
        held_up = await guesser.get("/api/v1/me", headers=newcomer.auth | {"x-forwarded-for": "203.0.113.9"})
        assert (held_up.status_code, error_of(held_up)["code"]) == (429, "rate_limit_exceeded")
        assert int(held_up.headers["retry-after"]) >= 1
        assert (await guesser.get("/api/v1/me", headers=person.auth)).status_code == 200
        assert (await other.get("/api/v1/me", headers=newcomer.auth)).status_code == 200
        assert (await other.get("/api/v1/me", headers=wrong)).status_code == 401


async def test_a_reset_token_and_a_lost_role_end_with_the_next_request(gateway: Gateway, person: Person) -> None:
    other = await signed_up(gateway)
    members, keys = (f"/api/v1/organizations/{person.organization}/{what}" for what in ("members", "keys"))
    async with people(gateway) as client, gateway.stack.operator() as operator:
        made = await client.put(f"{members}/{other.name}", json={"role": "admin"}, headers=person.auth)
        assert made.status_code == 200
        assert (await client.post(keys, json={"name": "x"}, headers=other.auth)).status_code == 201
        await client.put(f"{members}/{other.name}", json={"role": "member"}, headers=person.auth)
        assert (await client.post(keys, json={"name": "y"}, headers=other.auth)).status_code == 403
        await client.delete(f"{members}/{other.name}", headers=person.auth)
        assert (await client.get(keys, headers=other.auth)).status_code == 404
        new = await reset(operator, other.name)
        assert (await client.get("/api/v1/me", headers=other.auth)).status_code == 401
        assert (await client.get("/api/v1/me", headers={"authorization": f"Bearer {new}"})).status_code == 200


async def test_the_keys_of_a_deleted_organization_are_dead_when_it_is_answered(
    gateway: Gateway, person: Person
) -> None:
    path = f"/api/v1/organizations/{person.organization}"
    async with people(gateway) as client, gateway.stack.operator() as operator:
        keys = [
            (await client.post(f"{path}/keys", json={"name": f"k{number}"}, headers=person.auth)).json()
            for number in range(3)
        ]
        for key in keys:
            assert await called(gateway, key) == 200  # so that it is remembered
        assert (await operator.delete(path)).status_code == 204
        assert [await called(gateway, key) for key in keys] == [401] * 3
        assert (await client.get(path, headers=person.auth)).status_code == 404
        assert (await client.get("/api/v1/me", headers=person.auth)).json()["organizations"] == []


async def called(gateway: Gateway, key: dict[str, Any]) -> int:
    async with gateway.http(key) as caller:
        return (await caller.post("/v1/chat/completions", json=ASK)).status_code


async def test_a_browser_signs_in_and_out(gateway: Gateway, person: Person) -> None:
    origin = {"origin": gateway.stack.console_url.rstrip("/")}
    async with people(gateway) as client:
        answer = await client.post("/api/v1/session", json={"access_token": person.token}, headers=origin)
        assert answer.json()["name"] == person.name
        cookie = {"cookie": answer.headers["set-cookie"].split(";")[0]}
        keys = f"/api/v1/users/{person.name}/keys"
        assert (await client.post(keys, json={"name": "x"}, headers=origin | cookie)).status_code == 201
        assert (await client.post(keys, json={"name": "y"}, headers=cookie)).status_code == 403
        forged = cookie | {"origin": "https://evil.example", "x-forwarded-proto": "https"}
        assert (await client.post(keys, json={"name": "y"}, headers=forged)).status_code == 403
        assert (await client.delete("/api/v1/session", headers=origin | cookie)).status_code == 204


async def test_no_access_token_is_in_any_log_or_file(gateway: Gateway, person: Person) -> None:
    async with people(gateway) as client:
        await client.get(f"/api/v1/keys/{person.token}?token={person.token}", headers=person.auth)
    for path in (path for path in gateway.run_dir.rglob("*") if path.is_file()):
        assert person.token.encode() not in path.read_bytes(), path


async def test_while_keytoll_is_away_people_are_told_so(tmp_path: Any) -> None:
    async with gateway_in(tmp_path) as gateway:
        await gateway.stack.keytoll.stop()
        async with people(gateway) as client:
            answer = await client.get("/api/v1/me")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "service_unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_strangers_in_a_crowd_are_refused_in_json_and_take_no_callers_place(gateway: Gateway) -> None:
    """Keytoll's server has a bound of connections, at which it would refuse people and callers alike."""
    async with gateway.http(await gateway.new_key()) as caller:
        asking = [asyncio.create_task(_asked_by_hand(gateway)) for _ in range(1000)]
        read = [(await caller.get("/v1/key")).status_code for _ in range(20)]
        answers = await asyncio.gather(*asking)
    assert set(read) == {200}
    assert b"200" in {status for status, _ in answers}
    refusals = [json.loads(body)["error"]["code"] for status, body in answers if status != b"200"]
    assert set(refusals) <= {"service_unavailable"}


async def _asked_by_hand(gateway: Gateway) -> tuple[bytes, bytes]:
    """Ask what needs no token, on a connection of its own, and return the status and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.stack.settings.ports.management)
    writer.write(b"GET /api/v1/openapi.json HTTP/1.1\r\nhost: keytoll\r\nconnection: close\r\n\r\n")
    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    return head.split()[1], body
