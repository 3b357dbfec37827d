"""A browser's session: a cookie that no script reads and no other origin can use."""

from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
from serving import Operated

from keytoll.http.guesses import FAILURES
from keytoll.http.sign_in import COOKIE, SOURCE_HEADER

SELF = "https://keys.example"
OWN = {"origin": SELF, "sec-fetch-site": "same-origin"}
SESSION, ME, KEYS = "/api/v1/session", "/api/v1/me", "/api/v1/users/alice/keys"


@pytest.fixture
async def token(keytoll: Operated) -> str:
    """The access token of alice."""
    await keytoll.http.post("/api/v1/users", json={"name": "alice"})
    return str((await keytoll.http.post("/api/v1/users/alice/access-token/reset")).json()["secret"])


@pytest.fixture
async def browser(keytoll: Operated) -> AsyncIterator[httpx.AsyncClient]:
    """A browser: it keeps cookies, and asks by TLS, as Envoy tells."""
    headers = {"x-forwarded-proto": "https"}
    transport = httpx.ASGITransport(keytoll.people)
    async with httpx.AsyncClient(transport=transport, base_url=SELF, headers=headers) as client:
        yield client


async def sign_in(browser: httpx.AsyncClient, token: str, headers: Mapping[str, str] = OWN) -> httpx.Response:
    return await browser.post(SESSION, json={"access_token": token}, headers=headers)


async def test_a_token_signs_in_by_a_cookie_that_only_this_host_gets(browser: httpx.AsyncClient, token: str) -> None:
    answer = await sign_in(browser, token)
    assert answer.status_code == 200
    assert answer.json() == {
        "kind": "user",
        "name": "alice",
        "owner": "users/alice",
        "access_token": {"masked_token": f"gw-at-****{token[-4:]}", "created_at": "2026-11-27T12:00:00Z"},
        "organizations": [],
    }
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name == f"{COOKIE}={token}"
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=strict", "Secure"]
    assert (await browser.get(ME)).json() == answer.json()


async def test_signing_out_makes_the_browser_forget_and_nothing_else(browser: httpx.AsyncClient, token: str) -> None:
    await sign_in(browser, token)
    answer = await browser.delete(SESSION, headers=OWN)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await browser.get(ME)).status_code == 401
    assert (await browser.get(ME, headers={"authorization": f"Bearer {token}"})).status_code == 200


async def test_a_token_that_was_reset_ends_its_sessions(
    keytoll: Operated, browser: httpx.AsyncClient, token: str
) -> None:
    await sign_in(browser, token)
    await keytoll.http.post("/api/v1/users/alice/access-token/reset")
    assert (await browser.get(ME)).json()["error"]["code"] == "invalid_access_token"


@pytest.mark.parametrize("given", ["", "x", "gw-sk-" + "0" * 49, "gw-at-" + "0" * 49, "gw-at-ü"])
async def test_what_is_no_token_signs_nobody_in(browser: httpx.AsyncClient, given: str) -> None:
    answer = await sign_in(browser, given)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_access_token")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://keys.example"},
        {"origin": "https://keys.example:8443"},
        {"origin": "https://keys.example.evil.example"},
        {"origin": SELF, "sec-fetch-site": "cross-site"},
        {"origin": SELF, "sec-fetch-site": "same-site"},
    ],
)
async def test_a_page_of_another_origin_changes_nothing_by_the_cookie(
    keytoll: Operated, browser: httpx.AsyncClient, token: str, headers: dict[str, str]
) -> None:
    await sign_in(browser, token)
    for method, path in (("POST", KEYS), ("DELETE", "/api/v1/users/alice/access-token"), ("PATCH", f"{KEYS}/key_0")):
        answer = await browser.request(method, path, json={"name": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    assert (await keytoll.http.get(KEYS)).json()["data"] == []


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": SELF, "sec-fetch-site": "cross-site"}]
)
async def test_another_origin_can_sign_nobody_in_or_out(
    browser: httpx.AsyncClient, token: str, headers: dict[str, str]
) -> None:
    assert (await sign_in(browser, token, headers)).status_code == 403
    assert (await browser.delete(SESSION, headers=headers)).status_code == 403


async def test_a_page_of_this_origin_works_by_the_cookie(browser: httpx.AsyncClient, token: str) -> None:
    await sign_in(browser, token)
    created = await browser.post(KEYS, json={"name": "x"}, headers=OWN)
    assert created.status_code == 201
    assert created.json()["created_by"] == "users/alice"


async def test_a_token_in_the_header_needs_no_origin_and_goes_before_the_cookie(
    browser: httpx.AsyncClient, token: str
) -> None:
    await sign_in(browser, token)
    bearer = {"authorization": f"bearer {token}", "origin": "https://evil.example"}
    assert (await browser.post(KEYS, json={"name": "x"}, headers=bearer)).status_code == 201
    assert (await browser.get(ME, headers={"authorization": "Bearer gw-at-x"})).status_code == 401


async def test_what_is_done_is_told_with_the_address_it_came_from(
    keytoll: Operated, browser: httpx.AsyncClient, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}", SOURCE_HEADER: "203.0.113.9"}
    keytoll.clock.now_us += 1000  # later than the reset
    await browser.post(KEYS, json={"name": "x"}, headers=headers)
    event = (await keytoll.http.get("/api/v1/audit-events?action=key.create")).json()["data"][0]
    assert (event["actor"], event["source"], event["action"]) == ("users/alice", "203.0.113.9", "key.create")


async def test_who_guesses_too_often_is_held_up_and_nobody_else(
    keytoll: Operated, browser: httpx.AsyncClient, token: str
) -> None:
    guesser, other = {SOURCE_HEADER: "203.0.113.9"}, {SOURCE_HEADER: "203.0.113.10"}
    good = {"authorization": f"Bearer {token}"}
    assert (await browser.get(ME, headers=guesser | good)).status_code == 200
    wrong = {"authorization": "Bearer gw-at-" + "0" * 49}
    statuses = [(await browser.get(ME, headers=guesser | wrong)).status_code for _ in range(FAILURES + 1)]
    assert statuses == [401] * FAILURES + [429]
    held_up = await sign_in(browser, "gw-at-x", {**OWN, **guesser})
    assert (held_up.status_code, held_up.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(held_up.headers["retry-after"]) >= 1
    assert (await browser.get(ME, headers=guesser | good)).status_code == 200
    assert (await browser.get(ME, headers=other | wrong)).status_code == 401
    assert (await browser.get(ME, headers=other | good)).status_code == 200


async def test_no_answer_is_cached_framed_or_sniffed(browser: httpx.AsyncClient, token: str) -> None:
    await sign_in(browser, token)
    for path in (ME, "/api/v1/nothing", "/api/v1/users"):
        headers = (await browser.get(path)).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


async def test_what_can_be_read_can_be_asked_about(browser: httpx.AsyncClient, token: str) -> None:
    await sign_in(browser, token)
    head, got = await browser.head(ME), await browser.get(ME)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (await browser.head(f"{KEYS}/key_0/rotate")).status_code == 405


async def test_a_wrong_method_is_told_all_right_ones(browser: httpx.AsyncClient) -> None:
    answer = await browser.put(f"{KEYS}/key_0")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, PATCH")
