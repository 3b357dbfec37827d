"""Who may do what, over HTTP: each operation as an operator, an admin (alice), a member (bob) and a stranger (carol)."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from serving import Operated

ORG_KEYS = "organizations/acme/keys"
USER_KEYS = "users/alice/keys"
EDIT = {"name": "renamed"}

# What it is, what is sent, and how it is answered to an operator, alice, bob and carol. Alice is an admin of acme and bob
# a member; KEY is a key of acme, HERS one of alice's, CHARGE a charge of acme. A deletion of an owner stands last.
TABLE: list[tuple[str, str, str, object, tuple[int, int, int, int]]] = [
    ("get_about", "GET", "about", None, (200, 200, 200, 200)),
    ("get_me", "GET", "me", None, (200, 200, 200, 200)),
    ("archive_charges", "POST", "charge-archives", {"before": "2026-01-01"}, (200, 403, 403, 403)),
    ("list_users", "GET", "users", None, (200, 403, 403, 403)),
    ("create_user", "POST", "users", {"name": "erin"}, (201, 403, 403, 403)),
    ("get_user", "GET", "users/alice", None, (200, 200, 404, 404)),
    ("get_access_token", "GET", "users/alice/access-token", None, (200, 200, 404, 404)),
    ("reset_access_token", "POST", "users/alice/access-token/reset", None, (201, 201, 404, 404)),
    ("revoke_access_token", "DELETE", "users/alice/access-token", None, (204, 204, 404, 404)),
    ("list_organizations", "GET", "organizations", None, (200, 200, 200, 200)),
    ("create_organization", "POST", "organizations", {"name": "other"}, (201, 403, 403, 403)),
    ("get_organization", "GET", "organizations/acme", None, (200, 200, 200, 404)),
    ("list_members", "GET", "organizations/acme/members", None, (200, 200, 200, 404)),
    ("put_member", "PUT", "organizations/acme/members/dave", {"role": "member"}, (200, 200, 403, 404)),
    ("remove_member", "DELETE", "organizations/acme/members/dave", None, (204, 204, 403, 404)),
    ("create_user_key", "POST", USER_KEYS, {"name": "new"}, (201, 201, 404, 404)),
    ("list_user_keys", "GET", USER_KEYS, None, (200, 200, 404, 404)),
    ("get_user_key", "GET", f"{USER_KEYS}/HERS", None, (200, 200, 404, 404)),
    ("edit_user_key", "PATCH", f"{USER_KEYS}/HERS", EDIT, (200, 200, 404, 404)),
    ("edit_user_key", "PATCH", f"{USER_KEYS}/HERS?dry_run=true", EDIT, (200, 200, 404, 404)),
    ("rotate_user_key", "POST", f"{USER_KEYS}/HERS/rotate", None, (200, 200, 404, 404)),
    ("delete_user_key", "DELETE", f"{USER_KEYS}/HERS", None, (204, 204, 404, 404)),
    ("create_organization_key", "POST", ORG_KEYS, {"name": "new"}, (201, 201, 403, 404)),
    ("list_organization_keys", "GET", ORG_KEYS, None, (200, 200, 200, 404)),
    ("get_organization_key", "GET", f"{ORG_KEYS}/KEY", None, (200, 200, 200, 404)),
    ("edit_organization_key", "PATCH", f"{ORG_KEYS}/KEY", EDIT, (200, 200, 403, 404)),
    ("edit_organization_key", "PATCH", f"{ORG_KEYS}/KEY?dry_run=true", EDIT, (200, 200, 403, 404)),
    ("rotate_organization_key", "POST", f"{ORG_KEYS}/KEY/rotate", None, (200, 200, 403, 404)),
    ("list_keys", "GET", "keys", None, (200, 403, 403, 403)),
    ("get_key", "GET", "keys/KEY", None, (200, 200, 200, 404)),
    ("edit_key", "PATCH", "keys/KEY", {"disabled": True}, (200, 200, 403, 404)),
    ("rotate_key", "POST", "keys/KEY/rotate", None, (200, 200, 403, 404)),
    ("list_user_charges", "GET", "users/alice/charges", None, (200, 200, 404, 404)),
    ("list_user_charges", "GET", "users/alice/charges?format=csv", None, (200, 200, 404, 404)),
    ("list_organization_charges", "GET", "organizations/acme/charges", None, (200, 200, 200, 404)),
    ("list_charges", "GET", "charges", None, (200, 403, 403, 403)),
    ("list_charges", "GET", "charges?owner=organizations/acme", None, (200, 200, 200, 404)),
    ("explain_charge", "GET", "charges/CHARGE", None, (200, 200, 200, 404)),
    ("list_unsettled", "GET", "unsettled", None, (200, 403, 403, 403)),
    ("get_user_usage", "GET", "users/alice/usage", None, (200, 200, 404, 404)),
    ("get_organization_usage", "GET", "organizations/acme/usage?group_by=day,key,model", None, (200, 200, 200, 404)),
    ("get_usage", "GET", "usage", None, (200, 403, 403, 403)),
    ("list_audit_events", "GET", "audit-events", None, (200, 200, 200, 200)),
    ("list_audit_events", "GET", "audit-events?owner=organizations/acme", None, (200, 200, 403, 404)),
    ("list_audit_events", "GET", "audit-events?owner=users/alice", None, (200, 200, 404, 404)),
    ("delete_organization_key", "DELETE", f"{ORG_KEYS}/KEY", None, (204, 204, 403, 404)),
    ("delete_key", "DELETE", "keys/OTHER", None, (204, 204, 403, 404)),
    ("delete_organization", "DELETE", "organizations/acme", None, (204, 403, 403, 403)),
    ("delete_user", "DELETE", "users/alice", None, (204, 403, 403, 403)),
]
OPEN = {"sign_in", "sign_out", "get_openapi"}


@dataclass(frozen=True, slots=True)
class Scene:
    """People, an organization and keys, as the table has them."""

    keytoll: Operated
    ids: Mapping[str, str]
    api_key: str

    async def token(self, name: str) -> str:
        """Return a new access token of a person."""
        reset = await self.keytoll.http.post(f"/api/v1/users/{name}/access-token/reset")
        return str(reset.json()["secret"])

    def path(self, template: str) -> str:
        """Return the path with the ids of what there is."""
        for name, value in self.ids.items():
            template = template.replace(name, value)
        return f"/api/v1/{template}"

    @asynccontextmanager
    async def client(self, token: str | None) -> AsyncIterator[httpx.AsyncClient]:
        """A client of the socket behind Envoy."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(self.keytoll.people)
        async with httpx.AsyncClient(transport=transport, base_url="http://keytoll", headers=headers) as client:
            yield client


@pytest.fixture
async def scene(keytoll: Operated) -> Scene:
    async def made(path: str, body: object) -> dict[str, Any]:
        answer = await keytoll.http.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    for name in ("alice", "bob", "carol", "dave"):
        await made("users", {"name": name})
    await made("organizations", {"name": "acme", "admin": "alice"})
    await keytoll.http.put("/api/v1/organizations/acme/members/bob", json={"role": "member"})
    hers, key = await made(USER_KEYS, {"name": "a"}), await made(ORG_KEYS, {"name": "a"})
    other, charge = await made(ORG_KEYS, {"name": "b"}), await keytoll.charge(key)
    ids = {"HERS": hers["id"], "KEY": key["id"], "OTHER": other["id"], "CHARGE": charge.id}
    return Scene(keytoll, ids, hers["secret"])


async def test_the_table_has_every_operation(keytoll: Operated) -> None:
    document = (await keytoll.http.get("/api/v1/openapi.json")).json()
    operations = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    assert {row[0] for row in TABLE} == operations - OPEN


@pytest.mark.parametrize(("column", "who"), list(enumerate(["operator", "alice", "bob", "carol"])))
async def test_each_may_do_what_the_table_says_and_nothing_else(scene: Scene, column: int, who: str) -> None:
    for operation, method, template, body, expected in TABLE:
        path = scene.path(template)
        if who == "operator":
            await scene.token("alice")  # which there is to be seen, and revoked
            answer = await scene.keytoll.http.request(method, path, json=body)
        else:
            async with scene.client(await scene.token(who)) as client:
                answer = await client.request(method, path, json=body)
        assert answer.status_code == expected[column], (operation, template, answer.text)
        if answer.status_code >= 400:
            code = {403: "permission_denied", 404: "not_found"}[answer.status_code]
            assert answer.json()["error"]["code"] == code, operation


async def test_what_a_stranger_may_not_see_is_as_if_it_were_not_there(scene: Scene) -> None:
    """Down to the last byte."""
    token = await scene.token("carol")
    nowhere = {
        "KEY": "key_0",
        "HERS": "key_0",
        "OTHER": "key_0",
        "CHARGE": "chg_0",
        "alice": "nobody",
        "acme": "nothing",
    }
    async with scene.client(token) as client:
        for _, method, template, body, expected in TABLE:
            if expected[3] != 404:
                continue
            there, missing = scene.path(template), template
            for name, other in nowhere.items():
                missing = missing.replace(name, other)
            answers = [await client.request(method, path, json=body) for path in (there, f"/api/v1/{missing}")]
            assert answers[0].content == answers[1].content, template
            assert answers[0].headers == answers[1].headers, template


async def test_without_a_token_in_force_nothing_is_answered(scene: Scene) -> None:
    old = await scene.token("alice")
    await scene.token("alice")
    wrong = old[:-1] + ("0" if old[-1] != "0" else "1")
    for token in (None, scene.api_key, old, wrong, "gw-at-", "x", "a b"):
        async with scene.client(token) as client:
            for operation, method, template, body, _ in TABLE:
                answer = await client.request(method, scene.path(template), json=body)
                assert answer.status_code in (401, 429), (operation, token)
                assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status_code == 401 else None)
    assert (await scene.keytoll.http.get(scene.path("keys/KEY"))).status_code == 200


async def test_an_api_key_is_told_what_is_needed_instead(scene: Scene) -> None:
    async with scene.client(scene.api_key) as client:
        answer = await client.get("/api/v1/me")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (401, "invalid_access_token")
    assert "gw-at-" in error["message"]
    assert scene.api_key not in answer.text


async def test_a_lost_role_counts_from_the_next_request_on(scene: Scene) -> None:
    async with scene.client(await scene.token("bob")) as client:
        assert (await client.get(f"/api/v1/{ORG_KEYS}")).status_code == 200
        await scene.keytoll.http.put("/api/v1/organizations/acme/members/bob", json={"role": "admin"})
        assert (await client.post(f"/api/v1/{ORG_KEYS}", json={"name": "x"})).status_code == 201
        await scene.keytoll.http.delete("/api/v1/organizations/acme/members/bob")
        assert (await client.get(f"/api/v1/{ORG_KEYS}")).status_code == 404


async def test_anybody_may_leave_but_the_last_admin(scene: Scene) -> None:
    async with scene.client(await scene.token("bob")) as client:
        assert (await client.delete("/api/v1/organizations/acme/members/bob")).status_code == 204
    async with scene.client(await scene.token("alice")) as client:
        answer = await client.delete("/api/v1/organizations/acme/members/alice")
        demoted = await client.put("/api/v1/organizations/acme/members/alice", json={"role": "member"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "last_admin")
    assert (demoted.status_code, demoted.json()["error"]["code"]) == (409, "last_admin")


async def test_names_of_the_deleted_are_not_used_again(scene: Scene) -> None:
    http = scene.keytoll.http
    await http.delete("/api/v1/users/alice")
    await http.delete("/api/v1/organizations/acme")
    for path, body, param in (
        ("users", {"name": "alice"}, "name"),
        ("organizations", {"name": "acme"}, "name"),
        (USER_KEYS, {"name": "x"}, "owner"),
        (ORG_KEYS, {"name": "x"}, "owner"),
    ):
        answer = await http.post(f"/api/v1/{path}", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (409, "name_taken", param), path
        assert "was deleted" in error["message"]
