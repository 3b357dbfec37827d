"""The other commands, and what all of them do when Keytoll is away."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import run, run_plain, run_process
from serving import PRICES, Operated, operated, served_socket
from typer.main import get_command

from keytoll import __version__
from keytoll.cli import app, client, output
from keytoll.core.ledger import Charge, Reported, settle
from keytoll.core.pricing import Usage
from keytoll.store.base import Batch

CATALOG = """
currency: CNY
billing_time_zone: Asia/Shanghai
models:
  Qwen2.5-72B-Instruct:
    context_length: 131072
    price: {input: 4.00, output: 12.00}
    backends:
    - url: https://models.example.com/v1
"""


async def made_key(keytoll: Operated) -> dict[str, str]:
    key: dict[str, str] = (await run(keytoll.run_dir, "keys", "create", "users/alice", "--name", "a", "--json")).json
    return key


async def test_charges_are_listed_newest_first_with_their_amounts(keytoll: Operated) -> None:
    key = await made_key(keytoll)
    await keytoll.charge(key, output=20)
    second = await keytoll.charge(key, seconds=1)
    ran = await run(keytoll.run_dir, "charges", "list", "--owner", "users/alice")
    first_line, second_line = [line for line in ran.out.splitlines() if key["id"] in line]
    assert ("¥0.00401" in first_line, "¥0.00425" in second_line) == (True, True)
    assert first_line.split()[-5:] == ["10", "0", "¥0.00401", "reported", "200"]
    listed = (await run(keytoll.run_dir, "charges", "list", "--limit", "1", "--json")).json
    assert [charge["id"] for charge in listed] == [second.id]


async def test_old_charges_are_archived_and_what_was_spent_stays(keytoll: Operated) -> None:
    key = await made_key(keytoll)
    for seconds in range(3):
        await keytoll.charge(key, seconds=seconds - 10 * 86_400)
    today = keytoll.calendar.day(keytoll.clock())
    spent = (await run(keytoll.run_dir, "keys", "show", key["id"], "--json")).json["used"]
    ran = await run(keytoll.run_dir, "charges", "archive", "--before", today)
    assert ran.out == (f"2 charges admitted before {today} were moved to the archive {today}, beside the store.\n")
    assert len((await run(keytoll.run_dir, "charges", "list", "--json")).json) == 1  # the newest row always stays
    assert (await run(keytoll.run_dir, "keys", "show", key["id"], "--json")).json["used"] == spent
    assert (await run(keytoll.run_dir, "charges", "archive", "--before", today)).out.startswith("0 charges")
    events = (await run(keytoll.run_dir, "audit", "list", "--json")).json
    assert [event["after"] for event in events if event["action"] == "charges.archive"] == [{"before": today}]


async def test_what_is_to_come_is_not_archived(keytoll: Operated) -> None:
    ran = await run(keytoll.run_dir, "charges", "archive", "--before", "2999-01-01")
    assert ran.code != 0
    assert "before: must not be in the future" in ran.err


async def test_a_listed_charge_is_explained_line_by_line(keytoll: Operated) -> None:
    key = await made_key(keytoll)
    charge = await keytoll.charge(key, output=20)
    assert charge.id in (await run(keytoll.run_dir, "charges", "list")).out.split()
    ran = await run(keytoll.run_dir, "charges", "explain", charge.id)
    assert ran.code == 0
    facts, _, table = ran.out.partition("\n\n")
    told = dict(line.split(":", 1) for line in facts.splitlines())
    assert told["Request"].strip() == "chat/completions, Qwen2.5-72B-Instruct, status 200, 1 attempt"
    assert told["Owner"].strip() == f"users/alice, key {key['id']}"
    assert told["Prices"].strip() == f"{PRICES.id}, from ever on"
    assert (told["Held"].strip(), told["Measured"].strip()) == ("¥0.10", "as the backend reported")
    assert told["Admitted"].strip().endswith("+08:00, counted in 2026-11")
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["Input", "1000", "¥4.00", "a", "million", "¥0.004"],
        ["Cached", "10", "¥1.00", "a", "million", "¥0.00001"],
        ["Output", "20", "¥12.00", "a", "million", "¥0.00024"],
        ["Sum", "¥0.00425"],
        ["Rounded", "half", "to", "even", "¥0.00425"],
        ["Charged", "¥0.00425"],
    ]
    as_json = (await run(keytoll.run_dir, "charges", "explain", charge.id, "--json")).json
    assert (as_json["id"], as_json["sum"], len(as_json["lines"])) == (charge.id, "0.00425", 7)


async def test_an_estimate_and_its_cut_are_explained(keytoll: Operated) -> None:
    entry = replace(keytoll.entry(await made_key(keytoll)), events=30, hold_nano=1_000_000, attempts=2)
    charge = await keytoll.settle(entry, replace(PRICES, request=1_000))
    out = (await run(keytoll.run_dir, "charges", "explain", charge.id)).out
    assert "Input: 4001 request bytes at 0.250 tokens each, rounded up, are 1001; Output: 30 events at 1.000" in out
    assert "status 200, 2 attempts" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["Request", "1", "¥0.000001", "each", "¥0.000001"] in lines
    assert ["Rounded", "half", "to", "even", "¥0.004365"] in lines
    assert ["Cut", "to", "what", "was", "held", "¥0.001"] in lines
    assert ["Charged", "¥0.001"] in lines


async def test_odd_charges_are_explained_with_a_remark(keytoll: Operated) -> None:
    """Free ones, those beyond their hold, and those that don't add up, which never are to be overlooked."""
    key = await made_key(keytoll)

    async def remark(charge: Charge) -> str:
        out = (await run(keytoll.run_dir, "charges", "explain", charge.id)).out
        return out.split("\n\n", 2)[-1]

    reported = Reported(Usage(input=1000), output_told=True)
    refused = await keytoll.settle(replace(keytoll.entry(key), status=503))
    beyond = await keytoll.settle(replace(keytoll.entry(key), hold_nano=1_000_000, reported=reported))
    wrong = replace(
        settle(replace(keytoll.entry(key), reported=reported), PRICES, day="2026-09-21", settled_at_us=1), amount_nano=5
    )
    await keytoll.store.post(Batch(charges=[wrong]))
    assert await remark(refused) == "Nothing is charged: the request reached no backend, or was refused by it.\n"
    assert await remark(beyond) == "The backend reported ¥0.003 more than was held.\n"
    assert await remark(wrong) == "THE AMOUNT IN THE LEDGER IS NOT WHAT THIS ADDS UP TO.\n"
    unbounded = await keytoll.settle(replace(keytoll.entry(key), hold_nano=None))
    out = (await run(keytoll.run_dir, "charges", "explain", unbounded.id)).out
    assert "all that was left, as its cost had no bound" in out


@pytest.mark.parametrize("charge_id", ["chg_0", "", "..", "a/b", "?x", "键"])
async def test_a_charge_that_is_not_there_is_one_line(keytoll: Operated, charge_id: str) -> None:
    ran = await run(keytoll.run_dir, "charges", "explain", charge_id)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("keytoll: ")
    assert ran.err.count("\n") == 1


async def test_what_is_unsettled_is_listed_until_it_is_corrected(keytoll: Operated) -> None:
    key = await made_key(keytoll)
    list_ = ("unsettled", "list")
    assert (await run(keytoll.run_dir, *list_)).out == "Nothing is unsettled.\n"
    assert (await run(keytoll.run_dir, *list_, "--all")).out == "Nothing was ever unsettled.\n"
    entry = keytoll.entry(key)
    lost = await keytoll.give_up(replace(keytoll.entry(key, seconds=1), hold_nano=None))
    late = await keytoll.give_up(entry)
    correction = await keytoll.settle(entry)
    out = (await run(keytoll.run_dir, *list_)).out
    assert (lost.id in out, late.id in out, "unbounded" in out) == (True, False, True)
    first, second = (await run(keytoll.run_dir, *list_, "--all")).out.splitlines()[2:]
    assert (first.split()[0], first.split()[-1]) == (lost.id, "no")
    assert (second.split()[0], second.split()[-1], "¥0.10" in second) == (late.id, correction.id, True)
    as_json = (await run(keytoll.run_dir, *list_, "--all", "--json")).json
    assert [(row["id"], row["corrected_by"]) for row in as_json] == [(lost.id, None), (late.id, correction.id)]
    limited = (await run(keytoll.run_dir, *list_, "--all", "--limit", "1", "--json")).json
    assert [row["id"] for row in limited] == [lost.id]
    explained = (await run(keytoll.run_dir, "charges", "explain", correction.id)).out
    assert f"correction, corrects {late.id}" in explained
    assert "never came" in (await run(keytoll.run_dir, "charges", "explain", lost.id)).out


async def test_on_a_narrow_terminal_no_amount_is_cut_off(keytoll: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await made_key(keytoll)
    await keytoll.charge(key, output=20)
    monkeypatch.setattr(output, "_WIDE", 80)
    out = (await run(keytoll.run_dir, "charges", "list")).out
    line = next(line for line in out.splitlines() if key["id"] in line)
    assert line.split()[-3:] == ["¥0.00425", "reported", "200"]
    assert {"Amount", "Measured", "Status"} <= set(out.split())


async def test_charges_are_filtered_by_key_and_time(keytoll: Operated) -> None:
    key = await made_key(keytoll)
    old = await keytoll.charge(key, seconds=-10 * 86_400)
    new = await keytoll.charge(key, seconds=-3600)

    async def listed(*options: str) -> list[str]:
        ran = await run(keytoll.run_dir, "charges", "list", *options, "--json")
        return [charge["id"] for charge in ran.json]

    assert await listed("--key", key["id"]) == [new.id, old.id]
    assert await listed("--key", "key_0") == []
    assert await listed("--since", "7d") == [new.id]
    assert await listed("--since", "2020-01-01") == [new.id, old.id]


async def test_a_limit_reaches_over_pages_and_0_means_all(keytoll: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAGE", 2)
    key = await made_key(keytoll)
    ids = [(await keytoll.charge(key, seconds=-number)).id for number in range(5)]
    for limit, expected in (("3", ids[:3]), ("0", ids), ("100", ids)):
        listed = (await run(keytoll.run_dir, "charges", "list", "--limit", limit, "--json")).json
        assert [charge["id"] for charge in listed] == expected


async def test_no_charges_says_so(keytoll: Operated) -> None:
    assert (await run(keytoll.run_dir, "charges", "list")).out == "No charges.\n"
    assert (await run(keytoll.run_dir, "charges", "list", "--json")).json == []


@pytest.mark.parametrize("option", [("--owner", "alice"), ("--since", "last week"), ("--since", "1767225600000")])
async def test_a_wrong_filter_is_one_line_that_names_it(keytoll: Operated, option: tuple[str, str]) -> None:
    ran = await run(keytoll.run_dir, "charges", "list", *option)
    assert ran.code == 1
    assert ran.err.startswith(f"keytoll: {option[0].removeprefix('--')}: ")
    assert ran.err.count("\n") == 1


async def test_a_good_catalog_is_told_with_its_models(tmp_path: Path) -> None:
    file = tmp_path / "keytoll.yaml"
    file.write_text(CATALOG)
    ran = await run_plain("catalog", "check", str(file))
    first, *_ = ran.out.splitlines()
    assert (ran.code, first) == (0, f"{file}: OK, CNY, Asia/Shanghai, models: Qwen2.5-72B-Instruct")


async def test_a_good_catalog_is_told_with_which_prices_apply_from_when(tmp_path: Path) -> None:
    file = tmp_path / "keytoll.yaml"
    prices = "\n    - {input: 4.00, output: 12.00}\n    - {from: 2030-01-01, input: 3, output: 9.5, request: 0.001}\n"
    file.write_text(CATALOG.replace(" {input: 4.00, output: 12.00}\n", prices))
    lines = [line.split() for line in (await run_plain("catalog", "check", str(file))).out.splitlines()]
    told = (await run_plain("catalog", "check", str(file), "--json")).json
    first, second = told["prices"]["Qwen2.5-72B-Instruct"]
    since = "2030-01-01T00:00:00+08:00"
    assert [
        "Qwen2.5-72B-Instruct",
        "ever",
        "on",
        *["¥4.00"] * 3,
        "¥12.00",
        "¥4.00",
        "¥12.00",
        "¥0.00",
        first["id"],
    ] in lines
    assert ["Qwen2.5-72B-Instruct", since, *["¥3.00"] * 3, "¥9.50", "¥3.00", "¥9.50", "¥0.001", second["id"]] in lines
    assert (told["ok"], told["models"], told["problems"]) == (True, ["Qwen2.5-72B-Instruct"], [])
    assert (first["from"], first["input"], first["cached_input"]) == (None, "4.00", "4.00")
    assert (second["from"], second["input"], second["request"]) == ("2029-12-31T16:00:00Z", "3.00", "0.001")


async def test_a_bad_catalog_is_told_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "keytoll.yaml"
    file.write_text(CATALOG.replace("CNY", "yuan").replace(", output: 12.00", ""))
    ran = await run_plain("catalog", "check", str(file))
    assert (ran.code, ran.out) == (1, "")
    assert [line.split(": ")[:2] for line in ran.err.splitlines()] == [
        [f"{file}:2", "currency"],
        [f"{file}:7", "models.Qwen2.5-72B-Instruct.price.output"],
    ]


async def test_a_keytoll_that_is_not_running_is_one_line_that_says_how_to_start_it(tmp_path: Path) -> None:
    """Whether there is no folder, no socket, or one that a dead Keytoll left."""
    with socket.socket(socket.AF_UNIX) as dead:
        (tmp_path / "dead").mkdir()
        dead.bind(str(tmp_path / "dead" / "operator.sock"))
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "dead"):
        ran = await run(folder, "keys", "list")
        line = f"keytoll: Keytoll is not running at {folder}/operator.sock; start it with `keytoll serve`\n"
        assert (ran.code, ran.out, ran.err) == (1, "", line)


async def test_a_keytoll_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    """So it is for another user, whose connections are closed, and for one that is just stopping."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(close, tmp_path / "operator.sock"):
        ran = await run(tmp_path, "keys", "list")
    assert ran.code == 1
    assert ran.err.startswith(f"keytoll: Keytoll at {tmp_path}/operator.sock did not answer: ")
    assert ran.err.count("\n") == 1


async def test_a_run_folder_with_a_long_path_is_reached(tmp_path: Path) -> None:
    """A socket's address has room for some 107 bytes; folders of CI machines are deeper."""
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    async with served_socket(folder) as served:
        link = tmp_path / "short"
        link.symlink_to(folder)
        served.run_dir = link
        async with operated(served, tmp_path):
            assert (await run(folder, "keys", "list", "--json")).json == []


async def test_as_a_process_it_takes_the_run_folder_from_the_environment_and_no_proxy(keytoll: Operated) -> None:
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://x"}
    env = os.environ | proxies | {"RUN_DIR": str(keytoll.run_dir)}
    ran = await run_process("keys", "list", env=env, cwd=Path.cwd())
    assert (ran.code, ran.out, ran.err) == (0, "No keys.\n", "")


async def test_a_serve_that_cant_start_is_one_line(tmp_path: Path) -> None:
    options = ("--run-dir", "run", "--catalog", "missing.yaml", "--metrics-port", "0")
    ran = await run_process("serve", *options, env=os.environ, cwd=tmp_path)
    assert ran.code == 1
    lines = [line for line in ran.err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert lines[0].startswith("keytoll: ")
    assert "missing.yaml" in lines[0]


async def test_serve_takes_no_other_database_than_sqlite_and_postgresql() -> None:
    ran = await run_plain("serve", "--store", "mysql://u:s3cr3t@localhost/keytoll")
    assert ran.code == 2
    assert "SQLite" in ran.err
    assert "s3cr3t" not in ran.err


async def test_version_is_printed() -> None:
    assert (await run_plain("version")).out == f"{__version__}\n"
    assert (await run_plain("version", "--json")).json == {"version": __version__}


COMMAND_LINE: Any = get_command(app)


def commands(group: Any = COMMAND_LINE, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command there is."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name)


async def test_help_names_every_command() -> None:
    overview = (await run_plain("--help")).out
    assert all(command[0] in overview for command in commands())
    assert ("organizations", "members", "set") in commands()


@pytest.mark.parametrize("command", [c for c in commands() if c != ("version",)], ids=" ".join)
async def test_each_commands_help_shows_how_it_is_used(command: tuple[str, ...]) -> None:
    ran = await run_plain(*command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"Usage: keytoll {' '.join(command)} " in ran.out
    assert f"keytoll {' '.join(command)}" in ran.out.partition("Example")[2]


async def test_help_answers_without_loading_what_it_does_not_need() -> None:
    script = (
        "import sys, keytoll.cli\n"
        "print([m for m in ('httpx', 'fastapi', 'uvicorn', 'grpc', 'pydantic', 'ruamel', 'aiosqlite', 'asyncpg') if m in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out == b"[]\n"
