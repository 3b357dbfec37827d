"""People, organizations, members, access tokens and the audit log, by an operator on the spot."""

import re
from typing import Any

import pytest
from command_line import Ran, run
from serving import Operated

from keytoll.core.secrets import TOKEN_PREFIX, is_well_formed


async def done(keytoll: Operated, *arguments: str) -> Any:
    """Run a command that must succeed, a moment after the one before, and return what it printed as JSON."""
    keytoll.clock.now_us += 1000
    return (await run(keytoll.run_dir, *arguments, "--json")).json


async def told(keytoll: Operated, *arguments: str) -> str:
    ran = await run(keytoll.run_dir, *arguments)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


async def acme(keytoll: Operated) -> None:
    """An organization with its admin alice and its member bob."""
    for name in ("alice", "bob"):
        await done(keytoll, "users", "create", name)
    await done(keytoll, "organizations", "create", "acme", "--admin", "alice")
    await done(keytoll, "organizations", "members", "set", "acme", "bob")


async def test_people_are_signed_up_and_shown_with_their_roles(keytoll: Operated) -> None:
    assert await told(keytoll, "users", "list") == "No people.\n"
    assert await told(keytoll, "users", "create", "users/carol") == "Signed up users/carol.\n"
    await acme(keytoll)
    lines = (await told(keytoll, "users", "list")).splitlines()
    assert [line.split()[:4] for line in lines if "acme" in line] == [
        ["alice", "-", "acme", "(admin)"],
        ["bob", "-", "acme", "(member)"],
    ]
    assert "acme (admin)" in await told(keytoll, "users", "show", "alice")
    assert (await done(keytoll, "users", "show", "bob"))["organizations"][0]["role"] == "member"
    assert [user["name"] for user in await done(keytoll, "users", "list")] == ["alice", "bob", "carol"]


async def test_organizations_and_their_members_are_made_listed_and_changed(keytoll: Operated) -> None:
    assert await told(keytoll, "organizations", "list") == "No organizations.\n"
    assert await told(keytoll, "organizations", "create", "lab") == "Created organizations/lab.\n"
    assert await told(keytoll, "organizations", "members", "list", "lab") == "No members.\n"
    await acme(keytoll)
    assert ["acme", "2"] in [line.split()[:2] for line in (await told(keytoll, "organizations", "list")).splitlines()]
    assert "2" in (await told(keytoll, "organizations", "show", "organizations/acme")).split()
    members = ("organizations", "members")
    assert await told(keytoll, *members, "set", "acme", "bob", "--role", "admin") == "bob is admin of acme.\n"
    assert [line.split()[:2] for line in (await told(keytoll, *members, "list", "acme")).splitlines()[2:]] == [
        ["alice", "admin"],
        ["bob", "admin"],
    ]
    assert await told(keytoll, *members, "remove", "acme", "users/alice") == "alice is no longer in acme.\n"
    assert [(m["user"], m["role"]) for m in await done(keytoll, *members, "list", "acme")] == [("bob", "admin")]


@pytest.mark.parametrize("kind", ["users", "organizations"])
async def test_deleting_an_owner_asks_says_what_happens_and_is_in_force_when_it_returns(
    keytoll: Operated, kind: str
) -> None:
    await done(keytoll, kind, "create", "old")
    key = await done(keytoll, "keys", "create", f"{kind}/old", "--name", "a")
    asked = await run(keytoll.run_dir, kind, "delete", "old", answers="n\n")
    assert asked.code == 1
    assert f"Delete {kind}/old?" in asked.err
    assert "already running finish and are charged" in asked.err
    assert "never used again" in asked.err
    assert await keytoll.checked(key["secret"])
    ran = await run(keytoll.run_dir, kind, "delete", "old", answers="y\n")
    assert (ran.code, ran.out.strip()) == (0, f"Deleted {kind}/old.")
    assert await keytoll.checked(key["secret"]) is None
    again = await run(keytoll.run_dir, kind, "create", "old")
    assert again.code == 1
    assert "names aren't used twice" in again.err
    assert await gone(keytoll, kind, "delete", "old", "--yes")


async def gone(keytoll: Operated, *arguments: str) -> Ran:
    ran = await run(keytoll.run_dir, *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("keytoll: ")
    return ran


async def test_what_is_not_there_is_one_line(keytoll: Operated) -> None:
    for arguments in (
        ("users", "show", "nobody"),
        ("organizations", "show", "nobody"),
        ("organizations", "members", "list", "nobody"),
        ("organizations", "create", "acme", "--admin", "nobody"),
        ("access-token", "reset", "nobody"),
        ("access-token", "show", "nobody"),
    ):
        await gone(keytoll, *arguments)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "?x", "名", "organizations/acme", "x" * 65])
async def test_a_name_that_is_none_is_one_line_that_names_the_field(keytoll: Operated, name: str) -> None:
    assert "keytoll: name: " in (await gone(keytoll, "users", "create", name)).err
    assert "keytoll: user: " in (await gone(keytoll, "organizations", "members", "set", "acme", name)).err


async def test_an_access_token_is_shown_once_and_replaces_the_one_before(keytoll: Operated) -> None:
    await done(keytoll, "users", "create", "alice")
    out = await told(keytoll, "access-token", "reset", "alice")
    (secret,) = re.findall(r"gw-at-\w{49}", out)
    assert is_well_formed(TOKEN_PREFIX, secret)
    assert "will not be shown again" in out
    shown = await told(keytoll, "access-token", "show", "alice")
    assert f"gw-at-****{secret[-4:]}" in shown
    assert secret not in shown
    other = await done(keytoll, "access-token", "reset", "alice")
    assert other["masked_token"] == (await done(keytoll, "access-token", "show", "alice"))["masked_token"]
    assert other["secret"] != secret
    no = await run(keytoll.run_dir, "access-token", "revoke", "alice", answers="n\n")
    assert (no.code, "Revoke the access token of users/alice?" in no.err) == (1, True)
    assert await done(keytoll, "access-token", "revoke", "alice", "--yes") == {"owner": "users/alice", "revoked": True}
    await gone(keytoll, "access-token", "show", "alice")


@pytest.mark.parametrize("command", [("keys", "create", "--name", "a"), ("access-token", "reset")])
async def test_an_operator_must_say_whose(keytoll: Operated, command: tuple[str, ...]) -> None:
    ran = await run(keytoll.run_dir, *command)
    assert (ran.code, "An operator must say whose" in ran.err) == (2, True)


async def test_the_audit_log_tells_who_changed_what(keytoll: Operated) -> None:
    assert await told(keytoll, "audit", "list", "--action", "user.delete") == "No changes.\n"
    await acme(keytoll)
    key = await done(keytoll, "keys", "create", "organizations/acme", "--name", "a", "--monthly", "100")
    await done(keytoll, "keys", "edit", key["id"], "--total", "5", "--model", "m", "--disable")
    out = await told(keytoll, "audit", "list", "--owner", "organizations/acme")
    edit, *_, first = out.splitlines()[2:]
    assert edit.split()[2:7] == ["operator", "key.edit", "organizations/acme", "a", "operator.sock"]
    assert "quota: monthly 100.00 → total 5.00, disabled: false → true, allowed_models: null → m" in edit
    assert first.split()[2:6] == ["operator", "organization.create", "organizations/acme", "acme"]
    assert "bob" in out
    assert "role: member" in out
    assert key["secret"] not in out


async def test_the_audit_log_is_filtered_and_limited(keytoll: Operated) -> None:
    await acme(keytoll)

    async def actions(*options: str) -> list[str]:
        return [event["action"] for event in await done(keytoll, "audit", "list", *options)]

    assert await actions("--owner", "users/bob") == ["user.create"]
    assert await actions("--action", "member.put") == ["member.put"]
    assert await actions("--actor", "users/alice") == []
    assert await actions("--limit", "1") == ["member.put"]
    assert len(await actions("--since", "1h")) == len(await actions()) == 4
    assert await actions("--until", "2020-01-01") == []
    assert "keytoll: owner: must be" in (await gone(keytoll, "audit", "list", "--owner", "acme")).err
    assert "action" in (await gone(keytoll, "audit", "list", "--action", "nothing")).err


async def test_me_tells_that_it_is_an_operator_and_where(keytoll: Operated) -> None:
    assert f"{keytoll.run_dir}/operator.sock" in await told(keytoll, "me")
    me = await done(keytoll, "me")
    assert (me["kind"], me["owner"], me["at"]) == ("operator", None, f"{keytoll.run_dir}/operator.sock")
