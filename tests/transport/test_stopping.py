"""How a server ends: what is under way is finished, and nothing waits for ever."""

import asyncio
import socket
import time
from pathlib import Path

import grpc
import pytest

from keytoll.envoy.transport.limits import Limits
from keytoll.sockets import short_path
from transport.conftest import Served, check_of, served
from transport.peer import connected, framed, peer_of
from transport.scripted import until

LAST = 2**31 - 1


async def test_calls_under_way_are_finished_and_new_connections_refused(service: Served) -> None:
    async with service.channel() as channel:
        calls = [asyncio.ensure_future(check_of(channel)(b"wait %d" % number)) for number in range(20)]
        await until(lambda: service.script.waiting == 20)
        stopping = asyncio.create_task(service.server.stop(grace_s=10))
        await until(lambda: not _listens(service.path))
        service.script.gate.set()
        assert await asyncio.gather(*calls) == [b"wait %d" % number for number in range(20)]
        await stopping
    assert not service.script.voided


async def test_calls_that_take_longer_than_the_grace_are_ended(service: Served) -> None:
    async with service.channel() as channel:
        call = asyncio.ensure_future(check_of(channel)(b"wait"))
        await until(lambda: service.script.waiting == 1)
        await service.server.stop(grace_s=0.1)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call
        assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        await until(lambda: service.script.cancelled == 1)
    assert not service.script.voided


async def test_a_call_that_crosses_the_goaway_is_served(ngh2: Served) -> None:
    """The first GOAWAY excludes nothing; the second comes when the peer has acknowledged the first."""
    async with peer_of(ngh2.path) as peer:
        waiting = peer.ask(b"wait")
        await until(lambda: ngh2.script.waiting == 1)
        stopping = asyncio.create_task(ngh2.server.stop(grace_s=10))
        await until(lambda: not _listens(ngh2.path))
        crossing = peer.ask(b"crossing")  # it has read no GOAWAY yet
        assert (await peer.outcome(crossing)).message == b"crossing"
        await peer.until(lambda: len(peer.goaways) == 2)
        assert [each.last for each in peer.goaways] == [LAST, crossing]
        assert not peer.outcomes[waiting].ended
        ngh2.script.gate.set()
        assert (await peer.outcome(waiting)).message == b"wait"
        await peer.closed()
        await stopping
    assert [each.code for each in peer.goaways] == [0, 0]


async def test_peers_that_say_nothing_hold_up_no_stop(tmp_path: Path) -> None:
    """One that has not said hello, one that reads nothing of a large answer, one amid a message."""
    async with (
        served(tmp_path, "ngh2") as service,
        connected(service.path),
        connected(service.path, receive_buffer=4096) as stalled,
        peer_of(service.path) as slow,
    ):
        await stalled.start({4: 2**31 - 1})
        stalled.http2.increment_flow_control_window(2**30)
        for _ in range(4):
            stalled.ask(b"size 4000000")
        slow.body(slow.head(), framed(b"never whole")[:-1], end=False)
        slow.flush()
        await until(lambda: len(service.script.asked) == 4)
        began_s = time.monotonic()
        await service.server.stop(grace_s=0.2)
        assert time.monotonic() - began_s < 5


async def test_what_a_stalled_peer_never_read_is_void(tmp_path: Path) -> None:
    limits = Limits(stall_s=0.2)
    async with served(tmp_path, "ngh2", limits) as service, connected(service.path, receive_buffer=4096) as stalled:
        await stalled.start({4: 2**31 - 1})
        stalled.http2.increment_flow_control_window(2**30)
        for _ in range(3):
            stalled.ask(b"size 3000000")
        await until(lambda: len(service.script.voided) == 3)
        async with peer_of(service.path) as other:
            assert await other.is_well()


async def test_a_server_may_be_stopped_twice(ngh2: Served) -> None:
    await ngh2.server.stop(grace_s=1)
    await ngh2.server.stop(grace_s=1)


def _listens(path: Path) -> bool:
    with short_path(path) as short, socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(short)
        except OSError:
            return False
        return True
