"""Both sources settle the same entry once; nothing that fails on the way loses or doubles a charge."""

import sqlite3
from dataclasses import replace

import pytest
from told import told

from keytoll.core.ledger import usage_from
from keytoll.core.money import MAX_TOTAL_NANO
from keytoll.core.pricing import Prices, Usage
from keytoll.envoy.als import AlsSink
from keytoll.envoy.entries import from_als, from_journal
from keytoll.losses import LossDetector
from keytoll.settlement import Logged
from keytoll.store.base import Batch, Posted, StoreUnavailable
from settlement.conftest import NOW_US, PRICES, Desk
from settlement.lines import als_entry, als_message, charge, decision, earlier_line, facts, gone_line, line


def logged(number: int) -> Logged:
    item = from_journal(line(number))
    assert isinstance(item, Logged)
    return item


def test_journal_and_als_tell_the_same_entry() -> None:
    from_grpc = from_als(als_entry(5))
    assert from_grpc is not None
    assert from_grpc.entry == logged(5).entry
    assert from_grpc.entry.request_bytes == 120
    assert from_grpc.entry.fingerprint == logged(5).entry.fingerprint


def test_a_line_is_charged_if_any_reader_of_json_takes_it() -> None:
    """Half of a surrogate pair, or a number that is none, in what isn't charged by costs nobody a charge."""
    for odd in (rb'"\ud800"', b"NaN", b"-Infinity"):
        assert from_journal(line(5)[:-2] + b', "odd": ' + odd + b"}\n") == logged(5)


async def test_als_entries_become_charges_and_garbage_none(desk: Desk) -> None:
    sink = AlsSink(desk.settlement, clock=desk.clock)
    for message in (als_message(1, 2), als_message(), b"\xff\xff garbage", als_message(3)):
        await sink(message)
    assert await desk.charges() == [charge(1), charge(2), charge(3)]


async def test_entries_as_an_earlier_keytoll_told_them_are_the_same(desk: Desk) -> None:
    """Requests that it admitted end after an upgrade, and its journal is read then."""
    assert from_journal(earlier_line(5, facts(5))) == logged(5)
    message = als_entry(5)
    check = message.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"]
    check.Clear()
    check.update({**facts(5), "pool": "model/m", "retries": 1, "store_false": False})
    found = from_als(message)
    assert found is not None
    assert found.entry.fingerprint == logged(5).entry.fingerprint


async def test_an_envoy_yaml_from_before_journals_all_that_check_tells(desk: Desk) -> None:
    assert from_journal(earlier_line(5, {**told(facts(5)), "pool": "model/m", "body": "json"})) == logged(5)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (
            {"usage": '{"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "queue_s": 0.1, "x": null}'},
            Usage(input=9, output=4),
        ),
        (
            {
                "usage": '{"prompt_tokens":90,"prompt_tokens_details":{"cached_tokens":20,"audio_tokens":8,"cache_write_tokens":2},'
                '"completion_tokens":50,"completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":5}}'
            },
            Usage(input=60, cached_input=20, cache_write=2, output=45, audio_input=8, audio_output=5, reasoning=30),
        ),
        (
            {
                "usage": '{"input_tokens":90,"input_tokens_details":{"cached_tokens":20},"output_tokens":50,'
                '"output_tokens_details":{"reasoning_tokens":30}}'
            },
            Usage(input=70, cached_input=20, output=50, reasoning=30),
        ),
        (
            {
                "usage": '{"input_tokens":9,"cache_read_input_tokens":5,"cache_creation_input_tokens":3,"output_tokens":1}'
            },
            Usage(input=9, cached_input=5, cache_write=3, output=1),
        ),
        ({"usage": '{"input_tokens":9,"input_token_details":{"audio_tokens":9}}'}, Usage(audio_input=9)),
        ({"usage": '{"total_tokens":7}'}, Usage(input=7)),
        (
            {"meta": '{"tokens":{"input_tokens":12,"output_tokens":3},"billed_units":{"search_units":1}}'},
            Usage(12, output=3),
        ),
    ],
)
def test_what_an_answer_says_of_its_usage_is_read_by_every_name(told: dict[str, str], usage: Usage) -> None:
    item = from_journal(line(1, usage=told))
    assert isinstance(item, Logged)
    assert item.entry.reported is not None
    assert item.entry.reported.usage == usage


@pytest.mark.parametrize(
    "told",
    [
        {"usage": "{prompt_tokens: 9}"},
        {"usage": '{"prompt_tokens":' + "[" * 4000 + "}"},
        {"usage": '{"prompt_tokens":"9","completion_tokens":[4],"total_tokens":-1}'},
        {"usage": '{"details":{"prompt_tokens":9}}'},
        {"meta": '{"tokens":7}'},
        {"meta": '{"version":"2"}'},
    ],
)
def test_an_answer_that_says_nothing_of_use_reported_nothing(told: dict[str, str]) -> None:
    item = from_journal(line(1, usage=told))
    assert isinstance(item, Logged)
    assert item.entry.reported is None


async def test_als_entries_without_a_decision_or_before_their_end_are_none_of_ours(desk: Desk) -> None:
    early, stranger, broken = als_entry(1), als_entry(2), als_entry(3)
    early.common_properties.access_log_type = 4
    del stranger.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"]
    assert from_als(early) is None
    assert from_als(stranger) is None
    del broken.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"].fields["decision_id"]
    with pytest.raises(ValueError, match="decision_id"):
        from_als(broken)


async def test_both_sources_at_once_charge_each_request_once(desk: Desk) -> None:
    sink = AlsSink(desk.settlement, clock=desk.clock)
    (desk.folder / "journal.jsonl").write_bytes(line(1) + line(2) + line(2))
    await sink(als_message(2, 1))
    await desk.catch_up()
    await sink(als_message(1))
    assert await desk.charges() == [charge(1), charge(2)]
    assert desk.counted("repeated") == 4


async def test_another_entry_under_the_same_decision_is_kept_out_and_counted(desk: Desk) -> None:
    other = replace(logged(1), entry=replace(logged(1).entry, reported=usage_from({"prompt_tokens": 99_999})))
    await desk.settlement.post([logged(1)])
    posted = await desk.settlement.post([other])
    assert len(posted.conflicts) == 1
    assert await desk.charges() == [charge(1)]
    assert desk.counted("conflicting") == 1


async def test_a_charge_depends_on_its_entry_alone(desk: Desk) -> None:
    """Settlement prices from the entry alone, with the version that was in force at its admission."""
    dearer = replace(PRICES, input=8_000_000_000)
    entry = replace(logged(1).entry, price_id=dearer.id)
    posted = await desk.settlement.post([Logged(entry, dearer, NOW_US)])
    assert posted.charges[0].prices == dearer
    assert posted.charges[0].amount_nano == 10 * 8_000 + 12_000


async def test_a_charge_that_would_pass_64_bits_is_kept_out_and_the_others_count(desk: Desk) -> None:
    top = Prices(*[9_000_000_000_000_000_000] * 7)
    dear = [
        replace(
            logged(n).entry, price_id=top.id, reported=usage_from({"prompt_tokens": 1_000_000, "completion_tokens": 0})
        )
        for n in (1, 2)
    ]
    posted = await desk.settlement.post([Logged(dear[0], top, 0), logged(3), Logged(dear[1], top, 0)])
    assert MAX_TOTAL_NANO < 2 * 9_000_000_000_000_000_000
    assert [c.entry.decision_id for c in posted.charges] == [logged(3).entry.decision_id]
    assert await desk.charges() == [charge(3)]


async def test_settlement_waits_while_the_store_is_away_and_then_posts_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second error comes after the commit, as when only the answer was lost."""
    post, failures = desk.store.post, ["before", "after"]

    async def flaky(batch: Batch) -> Posted:
        failure = failures.pop(0) if failures else None
        if failure == "before":
            raise StoreUnavailable("away") from sqlite3.OperationalError("locked")
        posted = await post(batch)
        if failure == "after":
            raise StoreUnavailable("away")
        return posted

    monkeypatch.setattr(desk.store, "post", flaky)
    posted = await desk.settlement.post([logged(1)])
    assert posted.repeated == 1
    assert await desk.charges() == [charge(1)]
    assert desk.metrics.registry.get_sample_value("keytoll_store_errors_total") == 2


async def test_settling_a_request_ends_its_hold_and_its_spending_takes_the_holds_place(desk: Desk) -> None:
    entry = logged(1).entry
    desk.book.place(replace(entry, status=0, attempts=0, reported=None))
    assert desk.book.of("key_1").in_all.count == 1
    await desk.settlement.post([logged(1)])
    assert desk.book.of("key_1").in_all.count == 0
    assert len((await desk.restarted()).book) == 0


def placed(desk: Desk, *numbers: int) -> None:
    for number in numbers:
        entry = replace(logged(number).entry, status=0, attempts=0, reported=None)
        desk.book.place(entry, request_id=f"request {number}")


async def test_what_ended_before_checks_answer_came_holds_nothing_and_costs_nothing(desk: Desk) -> None:
    placed(desk, 1, 2, 3)
    (desk.folder / "journal.jsonl").write_bytes(gone_line("request 1") + line(2) + gone_line("request 1"))
    await desk.catch_up()
    assert [entry.decision_id for entry in desk.book.older_than(-1)] == [decision(3)]
    assert await desk.charges() == [charge(2)]
    assert [desk.counted(outcome) for outcome in ("settled", "unreadable")] == [1, 0]
    desk = await desk.restarted()
    with (desk.folder / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"v":1,"type":"Downstr' + gone_line("request 3"))  # after a line that a crash cut
    await desk.catch_up()
    assert len(desk.book) == 0
    assert await desk.charges() == [charge(2)]


async def test_a_request_of_which_nothing_is_held_may_be_gone_too_and_garbage_voids_nothing(desk: Desk) -> None:
    """Whoever breaks off a request that Check would have refused has such a line as well."""
    placed(desk, 1)
    strange = [None, "", "unknown", 5, True, [], ["request 1"], {"a": "request 1"}, "request 1" * 100, "\ud800", "\0"]
    early = gone_line("request 1", type="DownstreamStart")
    (desk.folder / "journal.jsonl").write_bytes(b"".join(map(gone_line, strange)) + early)
    await desk.catch_up()
    assert len(desk.book) == 1
    assert desk.counted("unreadable") == 0
    assert await desk.charges() == []


async def test_a_decision_that_was_never_logged_is_unsettled_and_corrected_if_its_entry_comes_after_all(
    desk: Desk,
) -> None:
    now_us, backlog_us = NOW_US, 0
    desk.clock = lambda: now_us
    desk = await desk.restarted()
    desk.book.place(replace(logged(1).entry, status=0, attempts=0, reported=None))
    losses = LossDetector(
        book=desk.book,
        settlement=desk.settlement,
        longest_s=60,
        clock=desk.clock,
        read_past_us=lambda: now_us - backlog_us,
        dead_before_us=lambda: 0,
    )
    await losses.sweep()
    assert len(desk.book) == 1
    now_us, backlog_us = now_us + 61_000_000, 10_000_000  # the journal holds more: it may stand there
    await losses.sweep()
    assert len(desk.book) == 1
    backlog_us = 0
    await losses.sweep()
    assert len(desk.book) == 0
    (lost,) = await desk.store.list_unsettled(after=None, limit=10, settled_later=False)
    assert (lost.entry.decision_id, lost.amount_nano) == (decision(1), 0)
    assert desk.metrics.registry.get_sample_value("keytoll_unsettled_decisions_total") == 1
    (desk.folder / "journal.jsonl").write_bytes(line(1) + line(1))
    await desk.catch_up()
    assert await desk.charges() == [charge(1)]
    assert await desk.store.list_unsettled(after=None, limit=10, settled_later=False) == []
    assert await desk.store.count_unsettled() == 0


async def test_what_the_envoy_of_a_request_took_with_it_is_found_as_soon_as_it_is_known_to_be_gone(desk: Desk) -> None:
    now_us = NOW_US
    desk.clock = lambda: now_us
    desk = await desk.restarted()
    for number in (1, 2):
        desk.book.place(replace(logged(number).entry, status=0, attempts=0, reported=None))
    await desk.settlement.post([logged(1)])
    now_us += 10_000_000
    losses = LossDetector(
        book=desk.book,
        settlement=desk.settlement,
        longest_s=3600,
        clock=desk.clock,
        read_past_us=desk.clock,
        dead_before_us=lambda: NOW_US + 5_000_000,
    )
    await losses.sweep()
    (lost,) = await desk.store.list_unsettled(after=None, limit=10, settled_later=False)
    assert lost.entry.decision_id == decision(2)
    assert len(desk.book) == 0
