"""The other commands, and what all of them do when Keytoll is away."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
from command_line import run, run_plain, run_process
from serving import Operated, operated, served_socket

from keytoll import __version__
from keytoll.cli import client, output

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
    assert (ran.code, ran.out) == (0, f"{file}: OK, CNY, Asia/Shanghai, models: Qwen2.5-72B-Instruct\n")
    told = (await run_plain("catalog", "check", str(file), "--json")).json
    assert told == {"ok": True, "models": ["Qwen2.5-72B-Instruct"], "problems": []}


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


async def test_serve_takes_no_other_database_than_sqlite() -> None:
    ran = await run_plain("serve", "--store", "postgresql://localhost/keytoll")
    assert ran.code == 2
    assert "SQLite" in ran.err


async def test_version_is_printed() -> None:
    assert (await run_plain("version")).out == f"{__version__}\n"
    assert (await run_plain("version", "--json")).json == {"version": __version__}


async def test_help_names_every_command_and_shows_examples() -> None:
    overview = (await run_plain("--help")).out
    assert all(name in overview for name in ("keys", "charges", "catalog", "serve", "version"))
    for command in ("keys create", "keys list", "keys edit", "keys delete", "charges list", "catalog check", "serve"):
        ran = await run_plain(*command.split(), "--help")
        assert ran.code == 0
        assert f"keytoll {command}" in ran.out.split("Usage:")[1].split("\n", 1)[1], command


async def test_help_answers_without_loading_what_it_does_not_need() -> None:
    script = (
        "import sys, keytoll.cli\n"
        "print([m for m in ('httpx', 'fastapi', 'uvicorn', 'grpc', 'pydantic', 'ruamel', 'aiosqlite') if m in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out == b"[]\n"
