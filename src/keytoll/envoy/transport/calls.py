"""What a peer may ask for, what it asks for, and how far its call has come."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keytoll.envoy.check import Handler, Void
from keytoll.envoy.transport import wire
from keytoll.envoy.transport.wire import Refusal

Feed = Callable[[bytes, Callable[[bytes], None]], Callable[[], None]]
"""Takes a request and what sends a message; returns what to call once the peer has gone. Sends few and small messages."""


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one answer. `request` names the message that it takes; `void` gets answers that reached nobody."""

    handle: Handler
    request: str
    void: Void = lambda _: None


@dataclass(frozen=True, slots=True)
class Stream:
    """A method that goes on answering until its peer leaves. `request` names the message that it takes."""

    feed: Feed
    request: str


Method = Unary | Stream
Methods = Mapping[bytes, Method]
"""By path."""

_NONE = Unary(lambda _: b"", "message")


@dataclass(frozen=True, slots=True)
class Head:
    """What the headers of a call ask for, or why it is refused."""

    method: Method = _NONE
    encoding: bytes = b""
    timeout_s: float | None = None
    refusal: Refusal | None = None


class Call:
    """A call whose HTTP/2 stream is open.

    It is `open` until it is answered or refused; a stream of answers has `begun` before. `answer` is kept for as long as
    it may turn out to be void. `left` is set if the peer reset the stream, `whole` if all of the request is here.
    """

    # What most calls never have stands with the class: to set it in each would take as long as to answer it.
    open: bool = True
    begun: bool = False
    left: bool = False
    body: bytearray | None = None
    answer: bytes | None = None
    work: "asyncio.Future[bytes] | None" = None
    timer: asyncio.TimerHandle | None = None
    leave: Callable[[], None] | None = None

    def __init__(self, stream_id: int, head: Head, *, whole: bool) -> None:
        self.stream_id = stream_id
        self.head = head
        self.whole = whole

    def void(self) -> None:
        """Give back the answer, if there is one: it reached nobody."""
        answer, self.answer = self.answer, None
        if answer is not None and isinstance(self.head.method, Unary):
            self.head.method.void(answer)

    def end(self) -> None:
        """Let go of everything that works for the call."""
        self.open = False
        if self.timer is not None:
            self.timer.cancel()
        if self.work is not None:
            self.work.cancel()
        if self.leave is not None:
            self.leave()
            self.leave = None


def judge(headers: Sequence[tuple[bytes, bytes]], methods: Methods) -> Head:
    """Return what a call's headers ask for. `te: trailers` is not demanded, as by other servers."""
    fields = dict(headers)
    if fields.get(b":method") != b"POST":
        return Head(refusal=wire.NOT_POST)
    if not _is_grpc(fields.get(b"content-type", b"")):
        return Head(refusal=wire.NOT_GRPC)
    method = methods.get(fields.get(b":path", b""))
    if method is None:
        return Head(refusal=wire.UNKNOWN_METHOD)
    return _timed(method, fields)


def _is_grpc(content_type: bytes) -> bool:
    name, rest = content_type[:16].lower(), content_type[16:17]
    return name == b"application/grpc" and rest in (b"", b"+", b";", b" ")


def _timed(method: Method, fields: Mapping[bytes, bytes]) -> Head:
    encoding = fields.get(b"grpc-encoding", b"")
    if b"grpc-timeout" not in fields:
        return Head(method, encoding)
    timeout_s = wire.timeout_s(fields[b"grpc-timeout"])
    if timeout_s is None:
        return Head(method, refusal=wire.BAD_TIMEOUT)
    return Head(method, encoding, timeout_s, wire.EXPIRED if timeout_s == 0 else None)
