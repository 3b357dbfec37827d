"""Options that every command takes may stand where people put them."""

import pytest
from command_line import run_plain
from serving import Operated

from keytoll.cli.groups import handed_on


@pytest.mark.parametrize(
    ("given", "handed"),
    [
        (["keys", "list"], ["keys", "list"]),
        (["--json", "keys", "list"], ["keys", "--json", "list"]),
        (["--server", "U", "--json", "me"], ["me", "--server", "U", "--json"]),
        (["--run-dir=there", "me", "--json"], ["me", "--run-dir=there", "--json"]),
        (["--run-dir", "there", "--help"], ["--help"]),
        (["--json"], []),
        (["--server"], []),
        (["--jsonl", "me"], ["--jsonl", "me"]),
        (["create", "--name", "--json"], ["create", "--name", "--json"]),
        ([], []),
    ],
)
def test_they_are_handed_on_to_the_command(given: list[str], handed: list[str]) -> None:
    assert handed_on(given) == handed


async def test_they_work_before_within_and_behind_the_command(keytoll: Operated) -> None:
    where = ("--run-dir", str(keytoll.run_dir))
    for arguments in (
        ("--json", *where, "keys", "list"),
        ("keys", *where, "--json", "list"),
        (*where, "keys", "list", "--json"),
        ("keys", "list", "--json", *where),
    ):
        assert (await run_plain(*arguments)).json == []


async def test_the_last_of_them_counts(keytoll: Operated) -> None:
    ran = await run_plain("--run-dir", "nowhere", "keys", "list", "--run-dir", str(keytoll.run_dir))
    assert ran.out == "No keys.\n"


async def test_a_command_that_asks_no_keytoll_does_not_take_them() -> None:
    ran = await run_plain("--run-dir", "run", "version")
    assert ran.code == 2
    assert "No such option: --run-dir" in ran.err


@pytest.mark.parametrize("group", [(), ("keys",), ("organizations", "members"), ("access-token",), ("audit",)])
async def test_a_group_without_a_command_shows_its_help(group: tuple[str, ...]) -> None:
    for arguments in (group, (*group, "--json"), ("--json", *group, "--help")):
        ran = await run_plain(*arguments)
        assert f"Usage: {' '.join(('keytoll', *group))} [OPTIONS] COMMAND" in ran.out + ran.err
