"""The journal is followed to its end, once, whatever happens to its files."""

import os
import random
import shutil
from pathlib import Path

import pytest

from keytoll.envoy.journal import JournalFollower
from settlement.conftest import Desk
from settlement.lines import charge, line, record


def journal(desk: Desk) -> Path:
    return desk.folder / "journal.jsonl"


def append(path: Path, *parts: bytes) -> None:
    with path.open("ab") as file:
        file.writelines(parts)


async def test_entries_become_charges(desk: Desk) -> None:
    append(journal(desk), line(1), line(2))
    await desk.catch_up()
    append(journal(desk), line(3))
    await desk.catch_up()
    assert await desk.charges() == [charge(1), charge(2), charge(3)]
    totals = await desk.store.owner_totals("users/alice")
    assert totals == {"2026-09": sum(amount for _, amount in await desk.charges())}


async def test_no_journal_and_an_empty_one_are_fine(desk: Desk) -> None:
    await desk.catch_up()
    journal(desk).touch()
    await desk.catch_up()
    assert await desk.charges() == []


async def test_a_partial_last_line_waits_for_its_rest(desk: Desk) -> None:
    whole = line(2)
    append(journal(desk), line(1), whole[:37])
    await desk.catch_up()
    assert await desk.charges() == [charge(1)]
    append(journal(desk), whole[37:])
    await desk.catch_up()
    assert await desk.charges() == [charge(1), charge(2)]
    assert desk.counted("unreadable") == 0


async def test_a_restart_goes_on_where_it_was(desk: Desk) -> None:
    append(journal(desk), line(1), line(2))
    await desk.catch_up()
    again = desk.restarted()
    append(journal(desk), line(3))
    await again.catch_up()
    assert await again.charges() == [charge(1), charge(2), charge(3)]
    assert again.counted("repeated") == 0


@pytest.mark.parametrize("name", ["journal.jsonl.1", "journal-000001.jsonl"])
async def test_a_rotated_file_is_read_to_its_end_and_the_new_one_from_its_start(desk: Desk, name: str) -> None:
    append(journal(desk), line(1))
    await desk.catch_up()
    append(journal(desk), line(2))
    journal(desk).rename(desk.folder / name)
    append(desk.folder / name, line(3))  # Envoy writes on into the renamed file until it reopens
    append(journal(desk), line(4))
    await desk.catch_up()
    assert await desk.charges() == [charge(n) for n in (1, 2, 3, 4)]
    assert desk.counted("repeated") == 0


async def test_a_rotation_while_keytoll_was_away_loses_and_repeats_nothing(desk: Desk) -> None:
    append(journal(desk), line(1))
    await desk.catch_up()
    append(journal(desk), line(2))
    journal(desk).rename(desk.folder / "journal.jsonl.1")
    append(journal(desk), line(3))
    again = desk.restarted()
    await again.catch_up()
    assert await again.charges() == [charge(1), charge(2), charge(3)]
    assert again.counted("repeated") == 0


async def test_a_truncated_journal_is_read_from_its_start_even_when_it_has_grown_again(desk: Desk) -> None:
    append(journal(desk), line(1))
    await desk.catch_up()
    os.truncate(journal(desk), 0)
    append(journal(desk), line(2), line(3), line(4))
    await desk.catch_up()
    assert await desk.charges() == [charge(n) for n in (1, 2, 3, 4)]


async def test_copy_and_truncate_loses_nothing_that_was_copied(desk: Desk) -> None:
    append(journal(desk), line(1))
    await desk.catch_up()
    append(journal(desk), line(2))
    shutil.copy(journal(desk), desk.folder / "journal.jsonl.1")
    os.truncate(journal(desk), 0)
    append(journal(desk), line(3))
    await desk.catch_up()
    assert await desk.charges() == [charge(1), charge(2), charge(3)]


async def test_a_removed_file_is_forgotten(desk: Desk) -> None:
    append(journal(desk), line(1))
    await desk.catch_up()
    assert len(await desk.store.positions()) == 1
    journal(desk).unlink()
    await desk.catch_up()
    assert await desk.store.positions() == {}


async def test_other_files_of_the_folder_are_left_alone(desk: Desk) -> None:
    append(desk.folder / "notes.txt", b"hello\n")
    (desk.folder / "journal.d").mkdir()
    append(desk.folder / "elsewhere", line(2))
    (desk.folder / "journal.link").symlink_to(desk.folder / "elsewhere")
    append(journal(desk), line(1))
    await desk.catch_up()
    assert await desk.charges() == [charge(1)]
    assert desk.counted("unreadable") == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"not json\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b"{}\n",
        b'{"type":"DownstreamEnd"}\n',
        b"[" * 100_000 + b"\n",
        line(9, check=None),
        line(9, check={"decision_id": "not a uuid"}),
        line(9, status="200"),
        line(9, attempts=-1),
        line(9, check={**record(9)["check"], "price_id": "price_unknown"}),
        line(9, check={**record(9)["check"], "admitted_at_us": "soon"}),
        b"x" * 2_000_000 + b"\n",
    ],
)
async def test_what_cannot_be_settled_is_kept_apart_and_stops_nothing(desk: Desk, garbage: bytes) -> None:
    append(journal(desk), line(1), garbage, line(2))
    await desk.catch_up()
    assert await desk.charges() == [charge(1), charge(2)]
    assert desk.counted("unreadable") >= 1


async def test_only_final_entries_are_charged(desk: Desk) -> None:
    append(journal(desk), line(1, type="DownstreamStart"), line(1, type="DownstreamPeriodic"), line(1))
    await desk.catch_up()
    assert await desk.charges() == [charge(1)]
    assert desk.counted("unreadable") == 0


async def test_a_client_that_left_before_the_answer_leaves_a_row_of_nothing(desk: Desk) -> None:
    append(journal(desk), line(1, status=0, usage={}), line(2, status=None, attempts=None, usage={}))
    await desk.catch_up()
    assert [amount for _, amount in await desk.charges()] == [0, 0]


async def test_a_large_journal_is_read_in_bounded_chunks(desk: Desk) -> None:
    append(journal(desk), *(line(n) for n in range(3_000)))
    posts = 0
    while await desk.follower.read_once():
        posts += 1
    assert posts > 3
    assert await desk.charges() == [charge(n) for n in range(3_000)]


async def test_lag_and_position_are_measured(desk: Desk) -> None:
    append(journal(desk), line(1))
    await desk.catch_up()
    sample = desk.metrics.registry.get_sample_value
    assert sample("keytoll_journal_lag_bytes") == 0
    assert sample("keytoll_journal_position_bytes") == journal(desk).stat().st_size
    assert sample("keytoll_settlement_lag_seconds_sum") == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(5))
async def test_any_sequence_of_what_can_happen_to_a_journal_charges_each_entry_once(desk: Desk, seed: int) -> None:
    """A seeded simulation: appends in pieces, rotations, restarts, repeated and reordered entries."""
    rng = random.Random(seed)
    written = 0
    for step in range(200):
        action = rng.choice(["append", "append", "read", "read", "rotate", "restart", "repeat"])
        if action == "append":
            for _ in range(rng.randrange(5)):
                append(journal(desk), line(written))
                written += 1
        elif action == "repeat" and written:
            append(journal(desk), line(rng.randrange(written)))
        elif action == "rotate" and journal(desk).exists():
            journal(desk).rename(desk.folder / f"journal.jsonl.{step}")
        elif action == "restart":
            desk = desk.restarted()
        else:
            await desk.follower.read_once()
    await desk.catch_up()
    assert await desk.charges() == [charge(n) for n in range(written)], f"seed {seed}"
    assert desk.counted("unreadable") == 0


async def test_a_folder_that_is_away_is_a_problem_until_it_is_back(desk: Desk) -> None:
    away = JournalFollower(
        desk.folder / "missing", store=desk.store, settlement=desk.settlement, clock=desk.clock, metrics=desk.metrics
    )
    with pytest.raises(FileNotFoundError):
        await away.read_once()
