"""Bytes that are no HTTP/2: their connection is closed, and another one goes on as if nothing had happened."""

from dataclasses import dataclass

import pytest

from transport.conftest import Served
from transport.peer import PREFACE, Peer, connected, frame, peer_of
from transport.scripted import until

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
HELLO = PREFACE + frame(SETTINGS, 0, 0, b"")
END_HEADERS, END_STREAM, PADDED = 4, 1, 8


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent on a new connection, and by which transport it is closed; what one alone minds is harmless."""

    name: str
    data: bytes
    by: str = "ngh2, grpcio"


CASES = (
    Case("HTTP/1.1", b"POST / HTTP/1.1\r\nhost: x\r\n\r\n"),
    Case("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n"),
    Case("TLS", bytes.fromhex("16030100a5010000a10303") + bytes(100)),
    Case("zeros", bytes(1000)),
    Case("a preface with a mistake at its end", PREFACE[:-1] + b"x" + frame(SETTINGS, 0, 0, b"")),
    Case("a preface and no settings", PREFACE + frame(PING, 0, 0, bytes(8)), by="ngh2"),
    Case("a preface and noise", PREFACE + bytes(range(256)) * 4),
    Case("settings of five bytes", PREFACE + frame(SETTINGS, 0, 0, bytes(5))),
    Case("settings of a stream", HELLO + frame(SETTINGS, 0, 1, b"")),
    Case("an acknowledgement with a payload", HELLO + frame(SETTINGS, 1, 0, bytes(6))),
    Case("a window beyond all windows", HELLO + frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff")),
    Case("a frame size below the least", HELLO + frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1")),
    Case("push that is neither on nor off", HELLO + frame(SETTINGS, 0, 0, b"\0\2\0\0\0\2")),
    Case("a frame above the greatest size", HELLO + frame(DATA, 0, 1, bytes(16_385))),
    Case("a ping of seven bytes", HELLO + frame(PING, 0, 0, bytes(7))),
    Case("a ping of a stream", HELLO + frame(PING, 0, 1, bytes(8)), by="ngh2"),
    Case("goaway of a stream", HELLO + frame(GOAWAY, 0, 1, bytes(8)), by="ngh2"),
    Case("goaway of four bytes", HELLO + frame(GOAWAY, 0, 0, bytes(4))),
    Case("a window update of nothing", HELLO + frame(WINDOW, 0, 0, bytes(4))),
    Case("a window update of three bytes", HELLO + frame(WINDOW, 0, 0, bytes(3))),
    Case("a window that overflows", HELLO + frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), by="ngh2"),
    Case("a window update of an idle stream", HELLO + frame(WINDOW, 0, 9, b"\0\0\0\1"), by="ngh2"),
    Case("a reset of an idle stream", HELLO + frame(RESET, 0, 9, bytes(4)), by="ngh2"),
    Case("a reset of stream 0", HELLO + frame(RESET, 0, 0, bytes(4)), by="ngh2"),
    Case("a reset of three bytes", HELLO + frame(RESET, 0, 9, bytes(3))),
    Case("data of stream 0", HELLO + frame(DATA, 0, 0, b"x"), by="ngh2"),
    Case("data of an idle stream", HELLO + frame(DATA, 0, 1, b"x"), by="ngh2"),
    Case("data that is all padding and more", HELLO + frame(DATA, PADDED, 1, b"\xff"), by="ngh2"),
    Case("headers of stream 0", HELLO + frame(HEADERS, END_HEADERS, 0, b"\x82"), by="ngh2"),
    Case("headers of an even stream", HELLO + frame(HEADERS, END_HEADERS, 2, b"\x82"), by="ngh2"),
    Case("headers that can't be unpacked", HELLO + frame(HEADERS, END_HEADERS, 1, b"\xff" * 20)),
    Case("headers of an index that is none", HELLO + frame(HEADERS, END_HEADERS, 1, b"\xff\x80\x01")),
    Case("headers that go back", HELLO + frame(HEADERS, 5, 3, b"\x82") + frame(HEADERS, 5, 1, b"\x82"), by="neither"),
    Case("a priority of four bytes", HELLO + frame(PRIORITY, 0, 1, bytes(4)), by="ngh2"),
    Case("a priority of stream 0", HELLO + frame(PRIORITY, 0, 0, bytes(5)), by="neither"),
    Case("a push by a client", HELLO + frame(PUSH, END_HEADERS, 1, bytes(4)), by="ngh2"),
    Case("a continuation of nothing", HELLO + frame(CONTINUATION, END_HEADERS, 1, b"\x82")),
    Case("headers broken off by a ping", HELLO + frame(HEADERS, 0, 1, b"\x82") + frame(PING, 0, 0, bytes(8))),
    Case("a flood of continuations", HELLO + frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 0, 1, b"") * 5000),
    Case("a bomb of headers", HELLO + frame(HEADERS, 0, 1, b"\x40\x01x\x7f\x81\x1f" + bytes(4000)) + b"\xbe" * 9000),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_connection_that_is_not_sound_is_closed_and_others_go_on(service: Served, case: Case) -> None:
    async with peer_of(service.path) as other:
        waiting = other.ask(b"wait")
        await until(lambda: service.script.asked)
        async with connected(service.path) as peer:
            peer.raw(case.data)
            if service.transport in case.by:
                await _closed(peer)
        service.script.gate.set()
        assert (await other.outcome(waiting)).message == b"wait"
        assert await other.is_well()


@pytest.mark.parametrize("case", [each for each in CASES if "ngh2" in each.by], ids=lambda case: case.name)
async def test_the_calls_of_a_connection_that_goes_wrong_end_with_it(ngh2: Served, case: Case) -> None:
    async with connected(ngh2.path) as peer:
        await peer.start()
        for _ in range(3):
            peer.ask(b"wait")
        await until(lambda: ngh2.script.waiting == 3)
        peer.raw(case.data.removeprefix(HELLO))  # a preface in the middle is garbage as well
        await _closed(peer)
        await until(lambda: ngh2.script.cancelled == 3)
    assert not ngh2.script.voided


async def test_a_connection_that_ends_anywhere_leaves_nothing(service: Served) -> None:
    """Cut after each byte of a whole connection with a call in it."""
    async with peer_of(service.path) as recorder:
        recorder.head()
        recorder.body(1, b"\0\0\0\0\4wait")
        whole = HELLO + recorder.http2.data_to_send()
    async with peer_of(service.path) as other:
        for place in range(0, len(whole), 1 if service.transport == "ngh2" else 16):
            async with connected(service.path) as peer:
                peer.raw(whole[:place])
        assert await other.is_well()
        await until(lambda: service.script.waiting == 0)


async def _closed(peer: Peer) -> None:
    """Read on, whatever comes, until the server closes the connection."""
    try:
        while await peer.reader.read(65536):
            pass
    except ConnectionError:
        pass
