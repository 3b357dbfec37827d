"""`keytoll keys`."""

import re
import time
from typing import Any

import pytest
from command_line import run
from serving import Operated

from keytoll.cli import client, output
from keytoll.core.expiry import parse_timestamp
from keytoll.core.secrets import KEY_PREFIX, is_well_formed

CREATE = ("keys", "create", "users/alice", "--name", "production")


async def created(keytoll: Operated, *options: str) -> dict[str, Any]:
    key: dict[str, Any] = (await run(keytoll.run_dir, *CREATE, *options, "--json")).json
    return key


async def test_create_prints_the_whole_key_once_with_a_warning(keytoll: Operated) -> None:
    ran = await run(keytoll.run_dir, *CREATE)
    secrets = re.findall(r"gw-sk-\w{49}", ran.out)
    assert ran.code == 0
    assert len(secrets) == 1
    assert is_well_formed(KEY_PREFIX, secrets[0])
    assert "will not be shown again" in ran.out
    listed = await run(keytoll.run_dir, "keys", "list")
    assert secrets[0] not in listed.out
    assert f"gw-sk-****{secrets[0][-4:]}" in listed.out


async def test_create_as_json_is_the_key_with_its_secret(keytoll: Operated) -> None:
    key = await created(keytoll, "--monthly", "100", "--expires", "30d")
    assert is_well_formed(KEY_PREFIX, key["secret"])
    assert (key["owner"], key["name"]) == ("users/alice", "production")
    assert key["quota"] == {"kind": "monthly", "limit": "100.00"}
    lasts_us = parse_timestamp(key["expires_at"], field="") - parse_timestamp(key["created_at"], field="")
    assert abs(lasts_us - 30 * 86_400_000_000) < 60_000_000


async def test_a_date_means_through_its_end_and_is_shown_so(keytoll: Operated) -> None:
    key = await created(keytoll, "--expires", "2099-12-31")
    assert key["expires_at"] == "2099-12-31T16:00:00Z"
    assert "2099-12-31 24:00" in (await run(keytoll.run_dir, "keys", "list")).out


async def test_times_are_shown_in_the_billing_zone(keytoll: Operated) -> None:
    await created(keytoll, "--expires", "2099-12-31T16:30:00Z")
    assert "2100-01-01 00:30" in (await run(keytoll.run_dir, "keys", "list")).out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--monthly", "-5"), "quota.limit: must be a decimal amount"),
        (("--total", "9000000000.01"), "quota.limit: must be at most 9,000,000,000"),
        (("--expires", "1767225600000"), "expires: 1767225600000 has no unit"),
        (("--expires", "2020-01-01"), "expires: must be in the future"),
        (("--expires", "soon"), "expires: must be a duration such as"),
        (("--name", ""), "name: must not be empty"),
        (("--name", "x" * 1000), "name: must have at most 100 characters"),
        (("--name", "a\0b"), "name: must not hold control characters"),
    ],
)
async def test_what_is_wrong_is_one_line_that_names_the_field(
    keytoll: Operated, options: tuple[str, ...], message: str
) -> None:
    """User reports 6, 7 and 11."""
    ran = await run(keytoll.run_dir, *CREATE, *options)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"keytoll: {message}")
    assert ran.err.count("\n") == 1
    assert (await run(keytoll.run_dir, "keys", "list", "--json")).json == []


async def test_an_owner_that_is_none_is_one_line(keytoll: Operated) -> None:
    for command in (("create", "alice", "--name", "a"), ("list", "alice"), ("list", "users/../keys")):
        ran = await run(keytoll.run_dir, "keys", *command)
        assert ran.code == 1
        assert ran.err.startswith("keytoll: owner: must be users/NAME or organizations/NAME")


async def test_a_name_that_is_taken_is_one_line(keytoll: Operated) -> None:
    await created(keytoll)
    ran = await run(keytoll.run_dir, *CREATE)
    assert (ran.code, ran.err) == (1, "keytoll: name: the owner has another key of this name\n")


async def test_a_limit_of_nothing_and_one_of_nine_billion_are_kept_and_shown(keytoll: Operated) -> None:
    """User reports 11 and 14."""
    assert (await created(keytoll, "--total", "0"))["quota"] == {"kind": "total", "limit": "0.00"}
    await created(keytoll, "--name", "large", "--total", "9000000000")
    await created(keytoll, "--name", "larger than 31 bits", "--total", "3542971632")
    out = (await run(keytoll.run_dir, "keys", "list")).out
    assert "¥0.00 / ¥0.00 total" in out
    assert "¥0.00 / ¥9000000000.00 total" in out
    assert "¥0.00 / ¥3542971632.00 total" in out


async def test_list_shows_what_is_used_of_each_quota(keytoll: Operated) -> None:
    monthly = await created(keytoll, "--monthly", "100")
    await created(keytoll, "--name", "free")
    month = keytoll.calendar.month(keytoll.clock()).name
    await keytoll.charge(monthly, month=month, output=3_791_000)
    out = (await run(keytoll.run_dir, "keys", "list", "users/alice")).out
    assert "¥45.49601 / ¥100.00 monthly" in out
    assert "¥0.00 / Unlimited" in out
    assert "Never" in out
    assert "users/alice" not in out


async def test_a_list_that_is_not_for_a_terminal_cuts_nothing_off(keytoll: Operated) -> None:
    """Names are shown as they are: wide, and neither as markup nor as emoji codes."""
    name = "España 生产 🚀 [red]:rocket:[/red] " + "生" * 60
    key = await created(keytoll, "--name", name)
    line = next(line for line in (await run(keytoll.run_dir, "keys", "list")).out.splitlines() if key["id"] in line)
    assert name in line
    assert "users/alice" in line


async def test_on_a_narrow_terminal_ids_stay_in_one_piece(keytoll: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await created(keytoll)
    monkeypatch.setattr(output, "_WIDE", 80)
    out = (await run(keytoll.run_dir, "keys", "list")).out
    assert key["id"] in out
    assert "…" not in out


async def test_list_follows_pages_and_prints_an_array(keytoll: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAGE", 2)
    for number in range(5):
        await created(keytoll, "--name", f"key {number}")
    listed = (await run(keytoll.run_dir, "keys", "list", "users/alice", "--json")).json
    assert sorted(key["name"] for key in listed) == [f"key {number}" for number in range(5)]
    assert all("secret" not in key for key in listed)


async def test_an_empty_list_says_so(keytoll: Operated) -> None:
    assert (await run(keytoll.run_dir, "keys", "list")).out == "No keys.\n"


async def test_edit_changes_what_it_names_at_once(keytoll: Operated) -> None:
    key = await created(keytoll, "--monthly", "100", "--expires", "30d")

    async def edited(*options: str) -> dict[str, Any]:
        answer: dict[str, Any] = (await run(keytoll.run_dir, "keys", "edit", key["id"], *options, "--json")).json
        return answer

    assert (await edited("--total", "5"))["quota"] == {"kind": "total", "limit": "5.00"}
    assert (await edited("--name", "other"))["expires_at"] == key["expires_at"]
    assert (await edited("--never"))["expires_at"] is None
    assert (await edited("--expires", "2099-01-01"))["expires_at"] == "2099-01-01T16:00:00Z"
    last = await edited("--unlimited")
    assert (last["quota"], last["name"]) == ({"kind": "unlimited", "limit": None}, "other")
    stored = await keytoll.checked(key["secret"])
    assert stored is not None
    assert stored.key.name == "other"


async def test_a_dry_run_shows_before_after_and_effects_and_changes_nothing(keytoll: Operated) -> None:
    key = await created(keytoll, "--monthly", "100")
    edit = ("keys", "edit", key["id"], "--total", "0", "--expires", "2099-12-31", "--dry-run")
    ran = await run(keytoll.run_dir, *edit)
    assert ran.code == 0
    assert ran.out.startswith("A dry run of an edit at ")
    assert "; nothing was changed.\n" in ran.out
    lines = ran.out.splitlines()
    [before] = [line.split() for line in lines if line.startswith("before")]
    [after] = [line.split() for line in lines if line.startswith("after")]
    assert before == ["before", "production", "¥0.00", "/", "¥100.00", "monthly", "Never"]
    assert after == ["after", "production", "¥0.00", "/", "¥0.00", "total", "2099-12-31", "24:00"]
    assert "* The key is at once blocked by its quota, until it is raised: " in ran.out
    assert "* It expires at 2100-01-01T00:00:00+08:00: " in ran.out
    preview = (await run(keytoll.run_dir, *edit, "--json")).json
    assert preview.keys() == {"before", "after", "effects", "from"}
    [now] = (await run(keytoll.run_dir, "keys", "list", "--json")).json
    assert now == preview["before"]
    assert (now["quota"]["limit"], now["expires_at"]) == ("100.00", None)


async def test_a_dry_run_of_a_wrong_edit_is_one_line(keytoll: Operated) -> None:
    key = await created(keytoll)
    await created(keytoll, "--name", "other")
    ran = await run(keytoll.run_dir, "keys", "edit", key["id"], "--name", "other", "--dry-run")
    assert (ran.code, ran.err) == (1, "keytoll: name: the owner has another key of this name\n")


@pytest.mark.parametrize(
    "options",
    [
        ("edit", "key_0", "--dry-run"),
        ("edit", "key_0"),
        ("edit", "key_0", "--monthly", "1", "--unlimited"),
        ("edit", "key_0", "--never", "--expires", "1d"),
        ("create", "users/alice"),
        ("create", "users/alice", "--name", "a", "--monthly", "1", "--total", "1"),
        ("list", "--colour"),
    ],
)
async def test_a_wrong_usage_exits_with_2(keytoll: Operated, options: tuple[str, ...]) -> None:
    ran = await run(keytoll.run_dir, "keys", *options)
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: keytoll keys" in ran.err


async def test_delete_asks_and_tells_what_it_means_for_running_requests(keytoll: Operated) -> None:
    key = await created(keytoll)
    no = await run(keytoll.run_dir, "keys", "delete", key["id"], answers="n\n")
    assert no.code == 1
    assert '"production"' in no.err
    assert "running finish and are charged" in no.err
    assert await keytoll.checked(key["secret"]) is not None
    unanswered = await run(keytoll.run_dir, "keys", "delete", key["id"])
    assert unanswered.code == 1
    yes = await run(keytoll.run_dir, "keys", "delete", key["id"], answers="y\n")
    assert yes.code == 0
    assert await keytoll.checked(key["secret"]) is None


async def test_delete_is_in_force_when_it_returns(keytoll: Operated) -> None:
    key = await created(keytoll)
    assert await keytoll.checked(key["secret"]) is not None
    ran = await run(keytoll.run_dir, "keys", "delete", key["id"], "--yes", "--json")
    assert ran.json == {"id": key["id"], "deleted": True}
    assert await keytoll.checked(key["secret"]) is None


@pytest.mark.parametrize("key_id", ["key_0", "", "..", "a/b", "?x", "键"])
async def test_a_key_that_is_not_there_is_one_line(keytoll: Operated, key_id: str) -> None:
    ran = await run(keytoll.run_dir, "keys", "delete", "--yes", key_id)
    assert ran.code == 1
    assert ran.err.startswith("keytoll: ")
    assert ran.err.count("\n") == 1


LIMITS = ("--model", "org/big", "--model", "m", "--network", "10.0.0.0/8", "--network", "2001:db8::1")


async def test_models_and_networks_are_named_one_by_one_and_taken_back(keytoll: Operated) -> None:
    key = await created(keytoll, *LIMITS)
    assert (key["allowed_models"], key["allowed_networks"]) == (["org/big", "m"], ["10.0.0.0/8", "2001:db8::1/128"])
    edit = ("keys", "edit", key["id"], "--json")
    key = (await run(keytoll.run_dir, *edit, "--any-model", "--network", "192.0.2.0/24")).json
    assert (key["allowed_models"], key["allowed_networks"]) == (None, ["192.0.2.0/24"])
    key = (await run(keytoll.run_dir, *edit, "--model", "m", "--any-network")).json
    assert (key["allowed_models"], key["allowed_networks"]) == (["m"], None)


async def test_a_disabled_key_is_shown_as_such_until_it_is_enabled(keytoll: Operated) -> None:
    key = await created(keytoll)
    assert "Never, disabled" in (await run(keytoll.run_dir, "keys", "edit", key["id"], "--disable")).out
    assert "Never, disabled" in (await run(keytoll.run_dir, "keys", "list")).out
    assert "disabled" not in (await run(keytoll.run_dir, "keys", "edit", key["id"], "--enable")).out


@pytest.mark.parametrize(
    "options",
    [
        ("--disable", "--enable"),
        ("--model", "m", "--any-model"),
        ("--network", "10.0.0.0/8", "--any-network"),
        ("--never", "--expires", "1d"),
    ],
)
async def test_opposites_exclude_each_other(keytoll: Operated, options: tuple[str, ...]) -> None:
    ran = await run(keytoll.run_dir, "keys", "edit", "key_0", *options)
    assert ran.code == 2
    assert "Give only one of" in ran.err


async def test_a_network_with_bits_behind_its_prefix_is_one_line(keytoll: Operated) -> None:
    ran = await run(keytoll.run_dir, *CREATE, "--network", "10.0.0.1/8")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("keytoll: allowed_networks: 10.0.0.1/8 has address bits behind its prefix")


async def test_show_tells_all_of_a_key(keytoll: Operated) -> None:
    key = await created(keytoll, "--monthly", "100", *LIMITS)
    out = (await run(keytoll.run_dir, "keys", "show", key["id"])).out
    for told in (key["id"], "users/alice", "¥0.00 / ¥100.00 monthly", "2026-12-01 00:00", "org/big, m", "10.0.0.0/8"):
        assert told in out
    assert "secret" not in out
    assert (await run(keytoll.run_dir, "keys", "show", key["id"], "--json")).json["id"] == key["id"]
    assert (await run(keytoll.run_dir, "keys", "show", "key_0")).code == 1


async def test_rotate_prints_the_new_secret_once_and_what_becomes_of_the_old(keytoll: Operated) -> None:
    key = await created(keytoll)
    ran = await run(keytoll.run_dir, "keys", "rotate", key["id"])
    (secret,) = re.findall(r"gw-sk-\w{49}", ran.out)
    assert "the old one no longer works" in ran.out
    assert await keytoll.checked(key["secret"]) is None
    keytoll.clock.now_us = time.time_ns() // 1000  # a grace counts from the command's own time
    graced = (await run(keytoll.run_dir, "keys", "rotate", key["id"], "--grace", "2h", "--json")).json
    lasts_us = parse_timestamp(graced["old_valid_until"], field="") - keytoll.clock.now_us
    assert abs(lasts_us - 7_200_000_000) < 60_000_000
    assert await keytoll.checked(secret)
    assert await keytoll.checked(graced["secret"])


async def test_a_grace_without_a_unit_is_one_line(keytoll: Operated) -> None:
    key = await created(keytoll)
    ran = await run(keytoll.run_dir, "keys", "rotate", key["id"], "--grace", "60")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("keytoll: grace: 60 has no unit")
