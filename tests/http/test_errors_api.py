"""How the API answers what it can't serve."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import structlog
from serving import Operated

from keytoll import logs

ALICE = "/api/v1/users/alice/keys"
JSON = {"content-type": "application/json"}


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Everything that a serving process writes out, logging all it ever may."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("debug")
    yield lambda: "".join(capfd.readouterr())
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/v1/nothing", 404, "not_found"),
        ("GET", "/api/v1/keys/", 404, "not_found"),
        ("GET", "/api/v1/teams/a/keys", 404, "not_found"),
        ("GET", "/openapi.json", 404, "not_found"),
        ("PUT", "/api/v1/keys", 405, "method_not_allowed"),
        ("DELETE", ALICE, 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods_are_told_in_the_one_shape(
    keytoll: Operated, method: str, path: str, status: int, code: str
) -> None:
    answer = await keytoll.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, code)
    assert status == 404 or "allow" in answer.headers


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", JSON),
        (b"{", JSON),
        (b'"name"', JSON),
        (b"[]", JSON),
        (b"null", JSON),
        (b"\xff\xfe", JSON),
        (b"[" * 100_000, JSON),
        (b'{"name": "a", "name": "b"}', JSON),
        (b'{"name": "a", "quota": {"kind": "total", "limit": "1", "limit": "100"}}', JSON),
        (b'{"name": NaN}', JSON),
        (b'{"name": "a"}', {}),
        (b'{"name": "a"}', {"content-type": "text/plain"}),
        (b"name=a", {"content-type": "application/x-www-form-urlencoded"}),
    ],
)
async def test_a_body_that_is_not_one_plain_json_object_is_refused(
    keytoll: Operated, body: bytes, headers: dict[str, str]
) -> None:
    answer = await keytoll.http.post(ALICE, content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert (await keytoll.http.get("/api/v1/keys")).json()["data"] == []


async def test_a_body_over_the_bound_is_refused_whether_it_declares_its_length_or_not(keytoll: Operated) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 1024

    declared = await keytoll.http.post(ALICE, content=b" " * 262_145, headers=JSON)
    streamed = await keytoll.http.post(ALICE, content=chunks(), headers=JSON)
    for answer in (declared, streamed):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_an_unknown_fields_name_is_quoted_shortly_whatever_it_holds(keytoll: Operated) -> None:
    body = rb'{"name": "a", "\ud800' + b"x" * 10_000 + b'": 1}'
    answer = await keytoll.http.post(ALICE, content=body, headers=JSON)
    assert answer.status_code == 400
    assert len(answer.content) < 1000


async def test_a_store_that_is_away_is_an_outage_that_a_retry_may_outlast(keytoll: Operated) -> None:
    await keytoll.store.close()
    answer = await keytoll.http.get("/api/v1/keys")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "service_unavailable"


async def test_an_error_inside_is_answered_without_what_it_was(
    keytoll: Operated, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **_named: object) -> None:
        raise RuntimeError("internal detail")

    monkeypatch.setattr(keytoll.management.keys, "get", fail)
    answer = await keytoll.http.get("/api/v1/keys/key_0")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "internal detail" not in answer.text
    assert "internal detail" in logged()
    assert answer.headers["cache-control"] == "no-store"


async def test_no_secret_reaches_a_log(
    keytoll: Operated, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it was pasted in the place of an id, and things go wrong."""

    async def fail(*_: object, **_named: object) -> None:
        raise RuntimeError("what went wrong")

    secret = (await keytoll.http.post(ALICE, json={"name": "production"})).json()["secret"]
    await keytoll.http.post(ALICE, json={"name": secret, "secret": secret})
    await keytoll.http.get(f"/api/v1/keys/{secret}?x={secret}")
    await keytoll.store.close()
    assert (await keytoll.http.get(f"/api/v1/keys/{secret}")).status_code == 503
    monkeypatch.setattr(keytoll.management.keys, "get", fail)
    assert (await keytoll.http.get(f"/api/v1/keys/{secret}")).status_code == 500
    written = logged()
    assert "GET /api/v1/keys/{key_id}" in written
    assert "what went wrong" in written
    assert secret not in written
