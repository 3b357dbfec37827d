"""What HTTP/2 allows a peer, and what comes of answers that reach nobody."""

import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from transport.conftest import Served
from transport.peer import connected, frame, framed, peer_of
from transport.scripted import until

DATA, HEADERS, PRIORITY, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 4, 6, 8, 9
WINDOW_SETTING = SettingCodes.INITIAL_WINDOW_SIZE


@pytest.mark.parametrize("window", [1, 7, 1000])
async def test_an_answer_waits_for_a_peer_with_a_tiny_window(service: Served, window: int) -> None:
    async with peer_of(service.path, {WINDOW_SETTING: window}) as peer:
        outcome = await peer.call(b"x" * (window * 20))
        assert outcome.message == b"x" * (window * 20)
    assert not service.script.voided


async def test_answers_larger_than_every_window_arrive_side_by_side(service: Served) -> None:
    async with peer_of(service.path) as peer:
        streams = [peer.ask(b"size %d" % (200_000 + number)) for number in range(8)]
        for number, stream_id in enumerate(streams):
            assert (await peer.outcome(stream_id)).message == bytes(200_000 + number)


async def test_an_answer_that_the_window_holds_up_goes_on_when_it_opens(service: Served) -> None:
    async with peer_of(service.path, {WINDOW_SETTING: 0}) as peer:
        stream_id = peer.ask(b"held up")
        await peer.ping()
        await peer.change({WINDOW_SETTING: 3})
        await peer.until(lambda: len(peer.outcomes[stream_id].data) == 3)
        peer.http2.increment_flow_control_window(1000, stream_id)
        peer.flush()
        assert (await peer.outcome(stream_id)).message == b"held up"
    assert not service.script.voided


async def test_an_answer_that_is_reset_while_it_is_held_up_is_void(ngh2: Served) -> None:
    """Of this and the next two grpcio tells nothing: such a hold stays until the journal or the loss detector ends it."""
    async with peer_of(ngh2.path, {WINDOW_SETTING: 0}) as peer:
        stream_id = peer.ask(b"held up")
        await until(lambda: ngh2.script.asked)
        await peer.ping()
        peer.reset(stream_id)
        await until(lambda: ngh2.script.voided == [b"held up"])
        await peer.change({WINDOW_SETTING: 65_535})
        assert await peer.is_well()


async def test_an_answer_that_is_held_up_when_the_connection_is_lost_is_void(ngh2: Served) -> None:
    async with peer_of(ngh2.path, {WINDOW_SETTING: 0}) as peer:
        peer.ask(b"held up")
        await until(lambda: ngh2.script.asked)
        await peer.ping()
    await until(lambda: ngh2.script.voided == [b"held up"])


async def test_an_answer_that_is_held_up_past_its_deadline_is_void(ngh2: Served) -> None:
    async with peer_of(ngh2.path, {WINDOW_SETTING: 0}) as peer:
        outcome = await peer.call(b"held up", {"grpc-timeout": "200m"})
        assert outcome.reset is ErrorCodes.CANCEL
        await until(lambda: ngh2.script.voided == [b"held up"])
        await peer.change({WINDOW_SETTING: 65_535})
        assert await peer.is_well()


async def test_a_deadline_is_kept_without_the_peers_help(service: Served) -> None:
    async with peer_of(service.path) as peer:
        outcome = await peer.call(b"wait", {"grpc-timeout": "300m"})
        assert outcome.code == 4 or outcome.reset is not None
        await until(lambda: service.script.cancelled == 1)
        service.script.gate.set()
        assert await peer.is_well()
    assert not service.script.voided


async def test_a_deadline_runs_while_the_message_is_on_its_way(ngh2: Served) -> None:
    async with peer_of(ngh2.path) as peer:
        stream_id = peer.head({"grpc-timeout": "50m"})
        peer.body(stream_id, framed(b"never whole")[:-1], end=False)
        peer.flush()
        assert (await peer.outcome(stream_id)).code == 4
        assert await peer.is_well()
    assert ngh2.script.asked == [b"well"]


@pytest.mark.parametrize("code", [ErrorCodes.NO_ERROR, ErrorCodes.CANCEL], ids=["Envoy's", "CANCEL"])
async def test_a_reset_before_the_answer_ends_what_works_for_it(service: Served, code: ErrorCodes) -> None:
    async with peer_of(service.path) as peer:
        stream_id = peer.ask(b"wait")
        await until(lambda: service.script.asked)
        peer.reset(stream_id, code)
        await until(lambda: service.script.cancelled == 1)
        assert await peer.is_well()
    assert not service.script.voided


async def test_a_lost_connection_ends_what_works_for_it(service: Served) -> None:
    async with peer_of(service.path) as peer, peer_of(service.path) as other:
        for number in range(20):
            peer.ask(b"wait %d" % number)
        await until(lambda: len(service.script.asked) == 20)
        await peer.leave()
        await until(lambda: service.script.cancelled == 20)
        assert await other.is_well()


async def test_a_call_and_its_reset_in_one_read_leave_nothing(ngh2: Served) -> None:
    """grpcio may tell nothing of an answer that a reset overtook; the journal then does."""
    async with peer_of(ngh2.path) as peer:
        stream_id = peer.head()
        peer.body(stream_id, framed(b"gone"))
        peer.http2.reset_stream(stream_id, ErrorCodes.NO_ERROR)
        peer.flush()
        await peer.ping()
        assert ngh2.script.voided == ngh2.script.asked == [b"gone"]
        assert await peer.is_well()


async def test_an_answer_that_crosses_its_reset_is_void_once(ngh2: Served) -> None:
    """The peer gave up before it read the answer, which was sent already: Envoy's time-out, or a caller who left."""
    async with peer_of(ngh2.path) as peer:
        stream_id = peer.ask(b"crossing")
        await until(lambda: ngh2.script.asked)  # and answered, in the same turn of the loop
        peer.raw(frame(3, 0, stream_id, bytes(4)) * 2)
        await peer.ping()
        assert ngh2.script.voided == [b"crossing"]
        assert await peer.is_well()


async def test_a_message_may_come_byte_by_byte(service: Served) -> None:
    async with peer_of(service.path) as peer:
        stream_id = peer.head()
        message = framed(b"byte by byte")
        for place in range(len(message)):
            peer.http2.send_data(stream_id, message[place : place + 1], end_stream=place + 1 == len(message))
            peer.flush()
            await asyncio.sleep(0)
        assert (await peer.outcome(stream_id)).message == b"byte by byte"


async def test_a_connection_may_come_byte_by_byte(service: Served) -> None:
    async with connected(service.path) as peer:
        peer.http2.initiate_connection()
        peer.head()
        peer.body(1, framed(b"torn"))
        for byte in peer.http2.data_to_send():
            peer.raw(bytes([byte]))
            await asyncio.sleep(0)
        assert (await peer.outcome(1)).message == b"torn"


async def test_calls_may_be_interleaved(service: Served) -> None:
    async with peer_of(service.path) as peer:
        streams = [peer.head() for _ in range(5)]
        for part in (slice(0, 3), slice(3, 8)):
            for stream_id in streams:
                peer.http2.send_data(stream_id, framed(b"%d" % stream_id)[part])
        for stream_id in streams:
            peer.http2.send_data(stream_id, b"", end_stream=True)
        peer.flush()
        for stream_id in streams:
            assert (await peer.outcome(stream_id)).message == b"%d" % stream_id


async def test_a_message_may_be_padded(ngh2: Served) -> None:
    async with peer_of(ngh2.path) as peer:
        stream_id = peer.head()
        peer.http2.send_data(stream_id, framed(b"padded"), end_stream=True, pad_length=255)
        peer.flush()
        assert (await peer.outcome(stream_id)).message == b"padded"


async def test_a_call_may_be_ended_by_trailers(ngh2: Served) -> None:
    async with peer_of(ngh2.path) as peer:
        stream_id = peer.head()
        peer.body(stream_id, framed(b"with trailers"), end=False)
        peer.http2.send_headers(stream_id, [("x-trailer", "1")], end_stream=True)
        peer.flush()
        assert (await peer.outcome(stream_id)).message == b"with trailers"


async def test_headers_may_be_continued(service: Served) -> None:
    async with peer_of(service.path) as peer:
        peer.head({"x-long": "y" * 2000})
        head = peer.http2.data_to_send()
        block = head[9:]
        assert head[3:5] == bytes([HEADERS, 4])
        peer.raw(frame(HEADERS, 0, 1, block[:100]) + frame(CONTINUATION, 0, 1, block[100:900]))
        peer.raw(frame(CONTINUATION, 4, 1, block[900:]))
        peer.body(1, framed(b"continued"))
        peer.flush()
        assert (await peer.outcome(1)).message == b"continued"


async def test_what_is_unknown_or_no_matter_is_ignored(service: Served) -> None:
    async with peer_of(service.path) as peer:
        peer.raw(frame(0x77, 0, 0, b"unknown") + frame(PRIORITY, 0, 5, b"\0\0\0\1\x10"))
        peer.raw(frame(SETTINGS, 0, 0, b"\0\x77\0\0\0\1"))
        assert await peer.is_well()


async def test_pings_and_settings_are_acknowledged(service: Served) -> None:
    async with peer_of(service.path) as peer:
        for _ in range(3):
            await peer.ping()
            await peer.change({SettingCodes.MAX_FRAME_SIZE: 16_384 + peer.pongs})
        assert peer.pongs == 3


async def test_a_peer_that_says_goaway_still_gets_its_answers(service: Served) -> None:
    async with peer_of(service.path) as peer:
        stream_id = peer.ask(b"wait")
        await until(lambda: service.script.asked)
        peer.raw(frame(7, 0, 0, bytes(8)))
        await peer.ping()
        service.script.gate.set()
        assert (await peer.outcome(stream_id)).message == b"wait"


async def test_a_peer_that_says_goaway_is_left_once_it_has_its_answers(ngh2: Served) -> None:
    async with peer_of(ngh2.path) as peer:
        peer.raw(frame(7, 0, 0, bytes(8)))
        await peer.closed()


async def test_an_answer_that_is_ready_at_once_costs_no_task(ngh2: Served) -> None:
    made: list[object] = []
    loop = asyncio.get_running_loop()

    def count(_: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> "asyncio.Task[Any]":
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **more)

    async with peer_of(ngh2.path) as peer:
        loop.set_task_factory(count)
        try:
            for _ in range(50):
                assert (await peer.call(b"at once", {"grpc-timeout": "3000m"})).message == b"at once"
            assert not made
            assert (await peer.call(b"later at once")).message == b"at once"
            assert len(made) == 1
        finally:
            loop.set_task_factory(None)


async def test_an_idle_connection_stays_for_the_next_call(service: Served) -> None:
    async with peer_of(service.path) as peer, peer_of(service.path) as other:
        for _ in range(20):
            assert await other.is_well()
        assert await peer.is_well()


async def test_a_storm_of_resets_disturbs_nobody(service: Served) -> None:
    """Callers who leave make Envoy reset their Checks: as many as come."""
    async with peer_of(service.path) as peer, peer_of(service.path) as other:
        for number in range(1000):
            stream_id = peer.ask(b"wait %d" % number)
            peer.reset(stream_id)
            if number % 100 == 0:
                assert await other.is_well()
        await peer.ping()
        assert await other.is_well()
        await until(lambda: service.script.waiting == 0)


async def test_a_hundred_connections_are_served_side_by_side(service: Served) -> None:
    async def call(number: int) -> bytes:
        async with peer_of(service.path) as peer:
            return (await peer.call(b"later from %d" % number)).message

    assert await asyncio.gather(*map(call, range(100))) == [b"from %d" % number for number in range(100)]


async def test_a_server_that_is_idle_on_many_connections_stops_at_once(service: Served) -> None:
    async with peer_of(service.path) as one, peer_of(service.path) as two:
        assert await one.is_well()
        reading = asyncio.gather(one.closed(), two.closed())
        await service.server.stop(grace_s=10)
        await reading
