"""The journal is followed to its end, once, whatever happens to its files."""

import os
import random
import shutil
from itertools import count
from pathlib import Path

import pytest
from told import told

from keytoll.envoy.journal import JournalFollower
from keytoll.envoy.segments import journal_files, whole_lines
from settlement.conftest import Desk
from settlement.lines import charge, earlier_line, facts, line


def journal(desk: Desk) -> Path:
    return desk.folder / "journal.jsonl"


class Now:
    """A clock in microseconds and one in seconds, which go as a test says."""

    def __init__(self) -> None:
        self.us = 1_000_000
        self.s = 0.0


def follower_of(desk: Desk, *, folder: Path | None = None, now: Now | None = None) -> JournalFollower:
    now = now or Now()
    return JournalFollower(
        folder or desk.folder,
        store=desk.store,
        settlement=desk.settlement,
        clock=lambda: now.us,
        metrics=desk.metrics,
        monotonic=lambda: now.s,
    )


async def read(follower: JournalFollower) -> None:
    while await follower.read_once():
        pass


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
    again = await desk.restarted()
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
    again = await desk.restarted()
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
        line(9, entry=None),
        line(9, entry=told(facts(9))["entry"] + "|"),
        line(9, entry=told(facts(9))["entry"].replace("users/alice", "")),
        line(9, entry=told(facts(9))["entry"].replace("alice", "\u0000")),
        earlier_line(9, {}),
        earlier_line(9, facts(9, owner="")),
        line(9, decision_id="not a uuid"),
        line(9, status="200"),
        line(9, attempts=-1),
        line(9, received=1.5),
        line(9, lua={"stream": {"events": "many"}}),
        line(9, **told(facts(9, hold_nano="lots"))),
        line(9, **told(facts(9, hold_nano="-1"))),
        line(9, **told(facts(9, rates="1 2"))),
        line(9, **told(facts(9, price_id="price_of_others"))),
        line(9, **told(facts(9, prices="1 2"))),
        line(9, **told(facts(9, admitted_at_us="soon"))),
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
    left = {"usage": {}, "attempts": 0, "received": 0}
    append(journal(desk), line(1, status=0, **left), line(2, status=None, **left | {"attempts": None}))
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
            desk = await desk.restarted()
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


# --- partial lines ---


async def test_an_entry_behind_a_torn_one_is_charged_and_the_torn_one_kept_apart(desk: Desk) -> None:
    """A full disk tears a line; once there is room, Envoy appends the next entry to what stands there."""
    torn = [line(9)[:at] for at in (1, 2, 40, len(line(9)) // 2, len(line(9)) - 2)]
    for number, part in enumerate(torn):
        append(journal(desk), part, line(number))
    await desk.catch_up()
    assert await desk.charges() == [charge(n) for n in range(len(torn))]
    assert desk.counted("unreadable") == len(torn)


async def test_what_a_caller_writes_into_an_entry_is_no_entry(desk: Desk) -> None:
    """Text within an entry that is none of ours can't pass for one, however it is put."""
    forged = line(2).decode().strip()
    append(journal(desk), line(1, entry=None, path=forged), line(1, entry=None, path="{" + forged + "{"))
    append(journal(desk), earlier_line(1, {"owner": forged}), line(3))
    await desk.catch_up()
    assert await desk.charges() == [charge(3)]


# --- how far it has been read ---


async def test_read_past_is_when_the_last_round_that_left_nothing_unread_began(desk: Desk) -> None:
    now = Now()
    follower = follower_of(desk, now=now)
    assert follower.read_past_us == 0
    append(journal(desk), line(1))
    await read(follower)
    assert follower.read_past_us == 1_000_000
    now.us = 2_000_000
    await read(follower)
    assert follower.read_past_us == 2_000_000


async def test_read_past_stands_still_while_more_is_to_be_read(desk: Desk) -> None:
    now = Now()
    follower = follower_of(desk, now=now)
    await read(follower)
    append(journal(desk), *(line(n) for n in range(1_000)))
    now.us = 2_000_000
    rounds = 0
    while journal(desk).stat().st_size > follower.settled_bytes(journal_files(desk.folder)[0]):
        assert follower.read_past_us == 1_000_000
        await follower.read_once()
        rounds += 1
    assert rounds > 1
    assert follower.read_past_us == 2_000_000


async def test_read_past_never_steps_back(desk: Desk) -> None:
    now = Now()
    follower = follower_of(desk, now=now)
    await read(follower)
    now.us = 10
    await read(follower)
    assert follower.read_past_us == 1_000_000


@pytest.mark.parametrize("before", [b"", line(1)])
async def test_read_past_waits_for_the_rest_of_a_line_but_not_for_ever(desk: Desk, before: bytes) -> None:
    now = Now()
    follower = follower_of(desk, now=now)
    append(journal(desk), before, line(2)[:50])
    await read(follower)
    assert follower.read_past_us == 0
    now.s = 4.9
    append(journal(desk), line(2)[50:60])
    await read(follower)
    now.s = 9.8
    await read(follower)
    assert follower.read_past_us == 0
    now.s, now.us = 10.0, 5_000_000
    await read(follower)
    assert follower.read_past_us == 5_000_000


async def test_read_past_is_unknown_while_the_journal_cannot_be_read(desk: Desk) -> None:
    follower = follower_of(desk, folder=desk.folder / "missing")
    with pytest.raises(FileNotFoundError):
        await follower.read_once()
    assert follower.read_past_us == 0


# --- files that change under the reader ---


@pytest.mark.parametrize("longer", [True, False])
async def test_a_file_that_lost_its_end_in_a_crash_of_the_host_is_read_from_its_start(desk: Desk, longer: bool) -> None:
    """The store is synced and the journal is not: then a position may be past the end, or amid a line of what came
    since."""
    append(journal(desk), line(1), line(2), line(3))
    await desk.catch_up()
    os.truncate(journal(desk), len(line(1)))
    append(journal(desk), *([line(4444), line(5555), line(6)] if longer else [line(4444)]))
    again = await desk.restarted()
    await again.catch_up()
    expected = [1, 2, 3, 4444, 5555, 6] if longer else [1, 2, 3, 4444]
    assert await again.charges() == sorted(charge(n) for n in expected)
    assert again.counted("unreadable") == 0


async def test_a_file_that_shrinks_while_it_is_followed_is_read_from_its_start(desk: Desk) -> None:
    append(journal(desk), line(1), line(2), line(3))
    await desk.catch_up()
    os.truncate(journal(desk), len(line(1)))
    append(journal(desk), line(4))
    await desk.catch_up()
    assert await desk.charges() == [charge(n) for n in (1, 2, 3, 4)]


async def test_a_file_is_never_read_from_the_place_of_another(desk: Desk) -> None:
    """Between listing and reading, the journal may be renamed and a new one be put in its place."""
    append(journal(desk), line(1))
    (listed,) = journal_files(desk.folder)
    journal(desk).rename(desk.folder / "journal.jsonl.1")
    assert whole_lines(listed, 0) == b""
    append(journal(desk), line(2))
    assert whole_lines(listed, 0) == b""


async def test_what_logrotate_compressed_is_left_alone(desk: Desk) -> None:
    append(desk.folder / "journal.jsonl.2.gz", b"\x1f\x8b garbage\n")
    append(journal(desk), line(1))
    await desk.catch_up()
    assert await desk.charges() == [charge(1)]
    assert desk.counted("unreadable") == 0


# --- several journals ---


async def test_several_journals_share_a_store_and_keep_each_their_positions(desk: Desk) -> None:
    other = desk.folder.with_name("other")
    other.mkdir()
    followers = [follower_of(desk), follower_of(desk, folder=other)]
    for number in count(1):
        append(desk.folder / "journal.jsonl", line(number))
        append(other / "journal.jsonl", line(100 + number))
        for follower in followers:
            await read(follower)
        if number == 3:
            break
        followers = [follower_of(desk), follower_of(desk, folder=other)]
    assert await desk.charges() == [charge(n) for n in (1, 2, 3, 101, 102, 103)]
    assert desk.counted("repeated") == 0
    assert len(await desk.store.positions()) == 2
    (other / "journal.jsonl").unlink()
    await read(followers[1])
    assert len(await desk.store.positions()) == 1


async def test_gauges_are_sums_over_all_journals(desk: Desk) -> None:
    other = desk.folder.with_name("other")
    other.mkdir()
    append(desk.folder / "journal.jsonl", line(1))
    append(other / "journal.jsonl", line(2), line(3)[:10])
    for follower in (follower_of(desk), follower_of(desk, folder=other)):
        await read(follower)
    sample = desk.metrics.registry.get_sample_value
    assert sample("keytoll_journal_lag_bytes") == 10
    assert sample("keytoll_journal_position_bytes") == len(line(1)) + len(line(2))
    assert sample("keytoll_journal_segments") == 2
