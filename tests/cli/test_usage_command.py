"""Usage, filters of keys and charges, and CSV."""

import csv
import io
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from serving import Operated

from keytoll.cli import client

DAY_S = 86_400


async def made_key(keytoll: Operated, name: str = "a", owner: str = "users/alice", *options: str) -> dict[str, Any]:
    keytoll.clock.now_us += 1000
    ran = await run(keytoll.run_dir, "keys", "create", owner, "--name", name, *options, "--json")
    key: dict[str, Any] = ran.json
    return key


def today(keytoll: Operated) -> str:
    return keytoll.calendar.day(keytoll.clock())


async def test_usage_is_summed_by_day_with_a_total(keytoll: Operated) -> None:
    key = await made_key(keytoll)
    await keytoll.charge(key, output=20)
    await keytoll.charge(key, output=20, seconds=-DAY_S)
    await keytoll.charge(key, output=20, seconds=-DAY_S)
    day = today(keytoll)
    before = str(date.fromisoformat(day) - timedelta(days=1))
    out = (await run(keytoll.run_dir, "usage", "--since", before)).out
    assert out.startswith(f"From {before} to {day}, in Asia/Shanghai:\n")
    assert [line.split() for line in out.splitlines() if "¥" in line] == [
        [before, "2", "2000", "20", "40", "¥0.0085"],
        [day, "1", "1000", "10", "20", "¥0.00425"],
        ["Total", "3", "3000", "30", "60", "¥0.01275"],
    ]


async def test_usage_is_summed_by_whatever_is_asked_for(keytoll: Operated) -> None:
    first, second = await made_key(keytoll, "a 1"), await made_key(keytoll, "b", "organizations/acme")
    await keytoll.charge(first)
    await keytoll.charge(second)
    await keytoll.charge(second)

    async def rows(*options: str) -> list[list[str]]:
        out = (await run(keytoll.run_dir, "usage", *options)).out
        return [line.split() for line in out.splitlines() if "¥" in line]

    model, sums = "Qwen2.5-72B-Instruct", [["1", "1000", "10", "0", "¥0.00401"], ["2", "2000", "20", "0", "¥0.00802"]]
    assert [row[0] for row in await rows("--by", "owner")] == ["organizations/acme", "users/alice", "Total"]
    assert await rows("--owner", "users/alice", "--by", "model", "--by", "key") == [
        [first["id"], "a", "1", model, *sums[0]],
        ["Total", *sums[0]],
    ]
    assert await rows("--owner", "organizations/acme", "--by", "model") == [[model, *sums[1]], ["Total", *sums[1]]]
    told = (await run(keytoll.run_dir, "usage", "--by", "key", "--json")).json
    assert (told["total"]["requests"], len(told["data"]), told["since"]) == (3, 2, f"{today(keytoll)[:7]}-01")


async def test_no_usage_says_so_and_for_when(keytoll: Operated) -> None:
    ran = await run(keytoll.run_dir, "usage", "--since", "2020-01-01", "--until", "2020-01-31")
    assert ran.out == "From 2020-01-01 to 2020-01-31, in Asia/Shanghai:\nNothing was used.\n"


@pytest.mark.parametrize("options", [("--since", "last week"), ("--until", "17"), ("--owner", "alice")])
async def test_a_wrong_span_or_owner_is_one_line_that_names_it(keytoll: Operated, options: tuple[str, str]) -> None:
    for command in (("usage",), ("charges", "list"), ("charges", "export")):
        ran = await run(keytoll.run_dir, *command, *options)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert ran.err.startswith(f"keytoll: {options[0].removeprefix('--')}: ")


async def test_charges_are_filtered_by_model_and_until_when(keytoll: Operated) -> None:
    key = await made_key(keytoll)
    old = await keytoll.charge(key, seconds=-2 * DAY_S)
    new = await keytoll.charge(key)

    async def ids(*options: str) -> list[str]:
        return [charge["id"] for charge in (await run(keytoll.run_dir, "charges", "list", *options, "--json")).json]

    yesterday = str(date.fromisoformat(today(keytoll)) - timedelta(days=1))
    assert await ids("--until", yesterday) == [old.id]
    assert await ids("--until", today(keytoll)) == [new.id, old.id]
    assert await ids("--model", "Qwen2.5-72B-Instruct", "--since", yesterday) == [new.id]
    assert await ids("--model", "bge-m3") == []


async def test_csv_has_every_charge_once_below_one_line_of_names(
    keytoll: Operated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "_PAGE", 2)
    key = await made_key(keytoll, 'España 生产, "1"')
    ids = [(await keytoll.charge(key, seconds=-number)).id for number in range(5)]
    ran = await run(keytoll.run_dir, "charges", "export", "--owner", "users/alice", "--model", "Qwen2.5-72B-Instruct")
    rows = list(csv.DictReader(io.StringIO(ran.out, newline="")))
    assert [row["id"] for row in rows] == ids
    assert {(row["key_name"], row["owner"], row["amount"]) for row in rows} == {
        ('España 生产, "1"', "users/alice", "0.00401")
    }
    file = tmp_path / "charges.csv"
    written = await run(keytoll.run_dir, "charges", "export", "-o", str(file))
    assert (written.code, written.out) == (0, "")
    assert file.read_bytes().decode() == ran.out
    assert [path.name for path in tmp_path.glob("charges.csv*")] == ["charges.csv"]


async def test_a_file_that_cant_be_written_is_one_line(keytoll: Operated, tmp_path: Path) -> None:
    ran = await run(keytoll.run_dir, "charges", "export", "-o", str(tmp_path / "nowhere" / "x.csv"))
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith(f"keytoll: can't write {tmp_path}/nowhere/x.csv: ")


async def test_keys_are_searched_filtered_and_sorted(keytoll: Operated) -> None:
    await made_key(keytoll, "Batch nightly", "users/alice", "--monthly", "1")
    await made_key(keytoll, "web", "users/alice", "--total", "0")
    off = await made_key(keytoll, "a batch", "organizations/acme")
    await run(keytoll.run_dir, "keys", "edit", off["id"], "--disable")

    async def names(*options: str) -> list[str]:
        return [key["name"] for key in (await run(keytoll.run_dir, "keys", "list", *options, "--json")).json]

    assert await names("--search", "BATCH", "--sort", "name") == ["a batch", "Batch nightly"]
    assert await names("-q", "batch", "users/alice") == ["Batch nightly"]
    assert await names("--status", "disabled") == ["a batch"]
    assert await names("--status", "spent") == ["web"]
    assert await names("--quota", "monthly") == ["Batch nightly"]
    assert await names("--sort", "-created_at") == ["a batch", "web", "Batch nightly"]
    wrong = await run(keytoll.run_dir, "keys", "list", "--sort", "colour")
    assert (wrong.code, "-last_used_at" in wrong.err) == (2, True)
