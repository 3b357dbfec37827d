"""What a peer may take of a server over libnghttp2, and no more."""

from pathlib import Path

from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from keytoll.envoy.transport.limits import Limits
from keytoll.envoy.transport.server import Ngh2Server
from transport.conftest import Served, served
from transport.peer import connected, frame, framed, peer_of
from transport.scripted import until

TOO_LARGE = 8
MIB = 1024 * 1024


async def test_connections_beyond_the_limit_are_closed_until_one_leaves(tmp_path: Path) -> None:
    async with served(tmp_path, "ngh2", Limits(connections=2)) as service:
        async with peer_of(service.path) as one, peer_of(service.path) as two:
            async with connected(service.path) as third:
                await third.closed()
            assert await one.is_well()
            assert await two.is_well()
        await until(lambda: isinstance(service.server, Ngh2Server) and service.server.connections == 0)
        async with peer_of(service.path) as another:
            assert await another.is_well()


async def test_who_does_not_say_hello_in_time_is_left(tmp_path: Path) -> None:
    async with (
        served(tmp_path, "ngh2", Limits(handshake_s=0.5)) as service,
        peer_of(service.path) as greeted,
        connected(service.path) as silent,
    ):
        await silent.closed()
        assert await greeted.is_well()


async def test_who_reads_nothing_is_left(tmp_path: Path) -> None:
    """Pings are acknowledged whatever the windows are; a peer that sends many and reads none is cut off."""
    async with (
        served(tmp_path, "ngh2", Limits(stall_s=0.1)) as service,
        connected(service.path, receive_buffer=4096) as peer,
        peer_of(service.path) as other,
    ):
        await peer.start()
        server = service.server
        assert isinstance(server, Ngh2Server)
        while server.connections == 2:
            peer.raw(frame(6, 0, 0, b"whatever") * 1000)
            assert await other.is_well()
        assert await other.is_well()


async def test_unfinished_messages_are_bounded_over_all_connections(tmp_path: Path) -> None:
    limits = Limits(unfinished_bytes=1000)
    async with served(tmp_path, "ngh2", limits) as service, peer_of(service.path) as one, peer_of(service.path) as two:
        first, second = one.head(), two.head()
        one.body(first, framed(bytes(900))[:800], end=False)
        one.flush()
        await one.ping()
        two.body(second, framed(bytes(900))[:800], end=False)
        two.flush()
        assert (await two.outcome(second)).code == TOO_LARGE
        one.body(first, framed(bytes(900))[800:])
        one.flush()
        assert (await one.outcome(first)).message == bytes(900)
        third = two.head()  # there is room again
        two.body(third, framed(bytes(900))[:800], end=False)
        two.body(third, framed(bytes(900))[800:])
        two.flush()
        assert (await two.outcome(third)).message == bytes(900)


async def test_answers_that_a_peer_holds_up_are_bounded(tmp_path: Path) -> None:
    async with served(tmp_path, "ngh2", Limits(unsent_bytes=10_000)) as service:
        async with peer_of(service.path, {SettingCodes.INITIAL_WINDOW_SIZE: 0}) as peer, peer_of(service.path) as other:
            for _ in range(3):
                peer.ask(b"size 4000")
            await peer.closed()
            assert [each.code for each in peer.goaways] == [ErrorCodes.ENHANCE_YOUR_CALM]
            assert await other.is_well()
        assert service.script.voided == [bytes(4000)] * 3


async def test_calls_beyond_the_limit_of_a_connection_are_refused_before_they_are_taken_up(tmp_path: Path) -> None:
    async with served(tmp_path, "ngh2", Limits(calls_per_connection=3)) as service, connected(service.path) as peer:
        peer.http2.initiate_connection()
        streams = [peer.head() for _ in range(5)]
        for stream_id in streams:
            peer.body(stream_id, framed(b"wait"))
        peer.flush()
        for stream_id in streams[3:]:
            assert (await peer.outcome(stream_id)).reset is ErrorCodes.REFUSED_STREAM
        assert len(service.script.asked) == 3
        service.script.gate.set()
        for stream_id in streams[:3]:
            assert (await peer.outcome(stream_id)).message == b"wait"
        assert await peer.is_well()


async def test_resets_are_bounded(tmp_path: Path) -> None:
    async with (
        served(tmp_path, "ngh2", Limits(resets=(100, 1))) as service,
        peer_of(service.path) as peer,
        peer_of(service.path) as other,
    ):
        for _ in range(5000):
            peer.reset(peer.ask(b"wait"))
        await peer.closed()
        assert peer.goaways[-1].code == ErrorCodes.INTERNAL_ERROR  # as libnghttp2 puts it
        await until(lambda: service.script.waiting == 0)
        assert len(service.script.asked) < 2500  # what one read brings is taken up before it is judged
        assert await other.is_well()


async def test_large_headers_end_their_connection(ngh2: Served) -> None:
    async with peer_of(ngh2.path) as peer, peer_of(ngh2.path) as other:
        stream_id = peer.http2.get_next_available_stream_id()
        block = b"\x00\x01x" + b"\x7f\x81\x7e" + b"y" * 16_256  # a literal field
        peer.raw(frame(1, 0, stream_id, block) + frame(9, 0, stream_id, block) * 4)
        peer.raw(frame(9, 4, stream_id, block))
        await peer.closed()
        assert await other.is_well()
