"""Changes that were made, and that some replica has not confirmed: what the API answers, and what the CLI says."""

from typing import Any

from command_line import run
from serving import Operated

from keytoll.store.replicas import Behind

NOT_YET = {"replica": "keytoll-2", "until": "2026-11-27T12:00:03Z"}
"""Two and a half seconds after the instant at which all this happens, to the next whole one."""


async def made(keytoll: Operated, owner: str = "users/alice") -> dict[str, Any]:
    """Make a key, which all replicas may get to know in their own time."""
    response = await keytoll.http.post(f"/api/v1/{owner}/keys", json={"name": "production"})
    assert response.status_code == 201
    key: dict[str, Any] = response.json()
    return key


async def test_a_change_that_is_not_confirmed_everywhere_says_where_and_until_when(keytoll: Operated) -> None:
    key = await made(keytoll)
    keytoll.behind.append(Behind("keytoll-2", 2.5))
    path = f"/api/v1/keys/{key['id']}"
    edited = await keytoll.http.patch(path, json={"name": "staging"})
    assert (edited.status_code, edited.json()["not_yet"]) == (202, [NOT_YET])
    assert edited.json()["name"] == "staging"
    rotated = await keytoll.http.post(f"{path}/rotate")
    assert (rotated.status_code, rotated.json()["not_yet"]) == (202, [NOT_YET])
    assert await keytoll.checked(rotated.json()["secret"]) is not None
    deleted = await keytoll.http.delete(path)
    assert (deleted.status_code, deleted.json()) == (202, {"not_yet": [NOT_YET]})
    assert (await keytoll.http.get(path)).status_code == 404


async def test_an_owner_s_deletion_is_told_of_likewise(keytoll: Operated) -> None:
    await made(keytoll, "users/alice")
    await made(keytoll, "organizations/acme")
    keytoll.behind.append(Behind("keytoll-2", 2.5))
    for owner in ("users/alice", "organizations/acme"):
        deleted = await keytoll.http.delete(f"/api/v1/{owner}")
        assert (deleted.status_code, deleted.json()) == (202, {"not_yet": [NOT_YET]})
        assert (await keytoll.http.get(f"/api/v1/{owner}")).status_code == 404


async def test_the_command_line_says_so_beside_what_it_did(keytoll: Operated) -> None:
    key = await made(keytoll)
    keytoll.behind.append(Behind("keytoll-2", 2.5))
    ran = await run(keytoll.run_dir, "keys", "delete", key["id"], "--yes")
    assert ran.code == 0
    assert "Deleted the key" in ran.out
    warning = "Not confirmed by the replica keytoll-2: it may go by the state before until 2026-11-27T20:00:03+08:00."
    assert ran.err.startswith(warning)
