"""Calls that are wrong in themselves, sent by the byte: each has its answer, and the connection goes on.

Where the two transports differ, the table tells both. grpcio is laxer, and where a message is missing it says nothing.
"""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from transport.conftest import Served
from transport.peer import Peer, framed, peer_of

SNAPPY, GZIP = {"grpc-encoding": "snappy"}, {"grpc-encoding": "gzip"}
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """A call, and what it gets: a gRPC status, an HTTP status, or `reset`; None where the server stays silent."""

    name: str
    ask: Callable[[Peer], int]
    ngh2: int | str
    grpcio: int | str | None


def head(**more: str | None) -> Callable[[Peer], int]:
    """A call whose headers are changed; `_` stands for `-`, and a leading one for `:`."""
    changed = {f":{name[1:]}" if name[0] == "_" else name.replace("_", "-"): value for name, value in more.items()}
    return lambda peer: peer.ask(b"hi", changed)


def body(data: bytes, more: Mapping[str, str | None] | None = None, *, end: bool = True) -> Callable[[Peer], int]:
    """A call with these bytes where its message should be."""

    def ask(peer: Peer) -> int:
        stream_id = peer.head(more)
        peer.body(stream_id, data, end=end) if data else peer.http2.end_stream(stream_id)
        peer.flush()
        return stream_id

    return ask


def bare(peer: Peer) -> int:
    """A call that is over with its headers."""
    stream_id = peer.head(end=True)
    peer.flush()
    return stream_id


OK, INVALID, EXPIRED, TOO_LARGE, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 8, 12, 13
CASES = (
    Case("a sound call", head(), OK, OK),
    Case("an unknown method", head(_path="/envoy.service.auth.v3.Authorization/Look"), UNIMPLEMENTED, UNIMPLEMENTED),
    Case("an unknown service", head(_path="/some.Service/Check"), UNIMPLEMENTED, UNIMPLEMENTED),
    Case("a path that is none", head(_path="*"), "reset", UNIMPLEMENTED),
    Case("another content type", head(content_type="application/json"), "HTTP 415", OK),
    Case("grpc-web", head(content_type="application/grpc-web"), "HTTP 415", OK),
    Case("no content type", head(content_type=None), "HTTP 415", OK),
    Case("a content type of gRPC", head(content_type="application/grpc+proto"), OK, OK),
    Case("a content type with a parameter", head(content_type="application/grpc;x=y"), OK, OK),
    Case("GET", head(_method="GET"), "HTTP 405", "reset"),
    Case("PUT", head(_method="PUT"), "HTTP 405", "reset"),
    Case("no method", head(_method=None), "reset", "reset"),
    Case("no path", head(_path=None), "reset", "reset"),
    Case("no te", head(te=None), OK, "reset"),
    Case("a timeout that is none", head(grpc_timeout="soon"), INTERNAL, INTERNAL),
    Case("a timeout without its unit", head(grpc_timeout="100"), INTERNAL, INTERNAL),
    Case("a timeout of nine digits", head(grpc_timeout="123456789m"), INTERNAL, OK),
    Case("a timeout in the past", head(grpc_timeout="-1m"), INTERNAL, INTERNAL),
    Case("no time at all", head(grpc_timeout="0m"), EXPIRED, EXPIRED),
    Case("all the time there is", head(grpc_timeout="99999999H"), OK, OK),
    Case("garbage", body(framed(b"garbage")), INVALID, INVALID),
    Case("garbage that is found later", body(framed(b"later garbage")), INVALID, INVALID),
    Case("a fault", body(framed(b"fault")), INTERNAL, INTERNAL),
    Case("an empty message", body(framed(b"")), OK, OK),
    Case("no message", body(b""), UNIMPLEMENTED, None),
    Case("headers only", bare, UNIMPLEMENTED, None),
    Case("a truncated prefix", body(b"\0\0\0"), INTERNAL, None),
    Case("a truncated message", body(framed(b"hello")[:-1]), INTERNAL, None),
    Case("two messages", body(framed(b"one") + framed(b"two")), UNIMPLEMENTED, OK),
    Case("bytes behind the message", body(framed(b"one") + b"xx"), UNIMPLEMENTED, OK),
    Case("a prefix of 2", body(framed(b"one", flag=2)), INTERNAL, OK),
    Case("compressed by nothing", body(framed(b"one", flag=1)), INTERNAL, INTERNAL),
    Case("compressed by identity", body(framed(b"one", flag=1), {"grpc-encoding": "identity"}), INTERNAL, INTERNAL),
    Case("compressed by snappy", body(framed(b"one", flag=1), SNAPPY), UNIMPLEMENTED, INTERNAL),
    Case("compressed by gzip", body(framed(gzip.compress(b"one"), flag=1), GZIP), UNIMPLEMENTED, OK),
    Case("not compressed, gzip named", body(framed(b"one"), GZIP), OK, OK),
    Case("5 MiB declared", body(b"\0" + (5 * MIB).to_bytes(4, "big") + b"x", end=False), TOO_LARGE, TOO_LARGE),
    Case("4 GiB declared, and the end", body(b"\0\xff\xff\xff\xff" + b"x"), TOO_LARGE, TOO_LARGE),
    Case("a header name in upper case", head(Grpc_Timeout="1S"), "reset", INTERNAL),
    Case("a header that belongs to HTTP/1.1", head(connection="close"), "reset", OK),
    Case("a content length that is a lie", head(content_length="3"), "reset", OK),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_call_gets_its_answer_and_the_connection_goes_on(service: Served, case: Case) -> None:
    expected = case.ngh2 if service.transport == "ngh2" else case.grpcio
    async with peer_of(service.path) as peer:
        stream_id = case.ask(peer)
        if expected is not None:
            outcome = await peer.outcome(stream_id)
            status = outcome.fields.get(":status")
            told = outcome.code if outcome.code is not None else f"HTTP {status}" if status else "reset"
            assert told == expected, outcome
        assert await peer.is_well()
    assert not service.script.voided


async def test_a_refusal_tells_which_compression_is_taken(ngh2: Served) -> None:
    async with peer_of(ngh2.path) as peer:
        outcome = await peer.outcome(body(framed(b"one", flag=1), SNAPPY)(peer))
        assert outcome.fields["grpc-accept-encoding"] == "identity"
        assert not outcome.data


async def test_a_refusal_needs_no_more_of_the_body(ngh2: Served) -> None:
    """Whoever declares too much is answered at once, and told to send no more of it."""
    async with peer_of(ngh2.path) as peer:
        stream_id = peer.head()
        peer.body(stream_id, b"\0\xff\xff\xff\xff", end=False)
        peer.flush()
        outcome = await peer.outcome(stream_id)
        assert outcome.code == TOO_LARGE
        await peer.until(lambda: outcome.reset is not None)
        assert outcome.reset == 0
        assert await peer.is_well()
