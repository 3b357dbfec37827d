"""Whatever bytes come as log entries, none of them stops settlement, and nothing is charged from garbage."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any

from settlement.conftest import NOW_US, Desk
from settlement.lines import als_message, amount, decision, earlier_line, facts, gone_line, line
from told import told

from fuzz.conftest import evidence, rng_of, share
from fuzz.judging import Told, told_by_als, told_by_line
from fuzz.ledger import judge_rows, judge_totals, rows_of
from fuzz.mutations import JSON, PROTOBUF, mutated
from fuzz.reporting import any_als_message, gathering
from keytoll.core.ledger import Charge
from keytoll.envoy.als import AlsSink
from keytoll.envoy.entries import Gone, UnreadableEntry, from_journal
from keytoll.settlement import Logged

SOUND = 10_000_000
"""Entries of these numbers stand undamaged between the mutated ones."""

_SOUND_EACH = 20
_LINES_A_FILE = 5000
_FLUSH_EACH = 500


def any_line(rng: Random, number: int) -> bytes:
    """Return a valid line of a decision of its own: plain, streamed, refused, cut, gone, or without any usage."""
    if rng.random() < 0.05:
        return gone_line(f"request {number}").rstrip(b"\n")
    stream = {"stream": {"events": rng.randrange(50), "bytes": 900.0}}
    unbounded = told(facts(number, hold_nano="unbounded"))
    changes: dict[str, Any] = rng.choice(
        (
            {},
            {},
            {"lua": stream},
            {"usage": {"usage": '{"prompt_tokens": 7, "completion_tokens": 2}'}},
            {
                "usage": {
                    "usage": '{"input_tokens":9,"input_tokens_details":{"cached_tokens":5,"x":[]},"output_tokens":1}'
                }
            },
            {"usage": {"meta": '{"api_version":{"version":"2"},"tokens":{"input_tokens":40}}'}},
            {"status": 500, "usage": {}},
            {"status": 0, "attempts": 0, "usage": {}},
            {"usage": {"input_tokens": 9, "output_tokens": 3, "cache_read_input_tokens": 5.0}},
            {"usage": {"prompt_tokens": 90, "cached_tokens": 100, "completion_tokens": 3, "reasoning_tokens": 9}},
            {**unbounded, "lua": stream},
        )
    )
    if rng.random() < 0.2:
        return earlier_line(number, facts(number), **changes).rstrip(b"\n")
    return line(number, **changes).rstrip(b"\n")


def mutated_lines(rng: Random, how_many: int) -> list[bytes]:
    """Return lines of a journal that something has damaged; what was one line may be several now."""
    others = [any_line(rng, number) for number in range(200)]
    return [mutated(rng, any_line(rng, number), others, JSON) for number in range(200, 200 + how_many)]


def test_a_mutated_line_is_an_entry_or_unreadable() -> None:
    """No other error comes out of the reader."""
    rng = rng_of("lines")
    for number, message in enumerate(mutated_lines(rng, share(4))):
        with evidence(number, message):
            try:
                found = from_journal(message)
            except UnreadableEntry:
                continue
            assert found is None or isinstance(found, Logged | Gone)


async def test_a_mutated_journal_is_read_to_its_end_and_only_what_is_valid_is_charged(
    desk: Desk, database: Path, report: Callable[[str], None]
) -> None:
    """Sound lines between the damaged ones are all charged; the file is written in pieces that end anywhere."""
    rng, how_many = rng_of("journal"), share(28)
    lines = mutated_lines(rng, how_many)
    told: list[Told] = []
    for start in range(0, how_many, _LINES_A_FILE):
        sound = (line(SOUND + number) for number in range(start, min(start + _LINES_A_FILE, how_many), _SOUND_EACH))
        content = _interleaved(lines[start : start + _LINES_A_FILE], sound)
        told += [one for text in content.split(b"\n") for one in told_by_line(text)]
        await _write_and_read(rng, desk, desk.folder / f"journal-{start:06}.jsonl", content)
    rows = await rows_of(desk.store)
    judge_rows(rows, told)
    judge_totals(rows, database)
    _judge_sound(rows, how_many)
    assert isfinite(desk.metrics.registry.get_sample_value("keytoll_settlement_lag_seconds_sum") or 0)
    report(f"{how_many:,} lines of the journal, {len(rows):,} charged, {desk.counted('unreadable'):,.0f} unreadable")


def _interleaved(lines: Sequence[bytes], sound: Iterator[bytes]) -> bytes:
    parts = []
    for number, text in enumerate(lines):
        parts += [next(sound)] if number % _SOUND_EACH == 0 else []
        parts.append(text + b"\n")
    return b"".join(parts)


async def _write_and_read(rng: Random, desk: Desk, path: Path, content: bytes) -> None:
    cuts = sorted(rng.randrange(len(content)) for _ in range(5))
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        with path.open("ab") as file:
            file.write(content[start:end])
        await desk.catch_up()
    assert path.stat().st_size in (await desk.store.positions()).values()


def _judge_sound(rows: Sequence[Charge], how_many: int) -> None:
    charged = {row.entry.decision_id: row.amount_nano for row in rows}
    for number in range(SOUND, SOUND + how_many, _SOUND_EACH):
        assert charged[decision(number)] == amount(number)


async def test_mutated_als_messages_are_all_taken_and_only_what_is_valid_is_charged(
    desk: Desk, database: Path, report: Callable[[str], None]
) -> None:
    rng, how_many = rng_of("als"), share(12)
    settlement = gathering(desk)
    sink = AlsSink(settlement, clock=lambda: NOW_US)
    told: list[Told] = []
    numbers = count(1)
    others = [any_als_message(rng, numbers) for _ in range(50)]
    for number in range(how_many):
        message = mutated(rng, any_als_message(rng, numbers), others, PROTOBUF)
        if number % _SOUND_EACH == 0:
            await sink(als_message(SOUND + number))
            told += told_by_als(als_message(SOUND + number))
        with evidence(number, message):
            before = len(settlement.logged)
            await sink(message)
            if len(settlement.logged) > before:
                told += told_by_als(message)
        if number % _FLUSH_EACH == 0 or number == how_many - 1:
            await settlement.flush()
    rows = await rows_of(desk.store)
    judge_rows(rows, told)
    judge_totals(rows, database)
    _judge_sound(rows, how_many)
    report(f"{how_many:,} ALS messages, {len(rows):,} entries charged, {desk.counted('unreadable'):,.0f} unreadable")
