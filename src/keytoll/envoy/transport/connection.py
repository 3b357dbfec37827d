"""One HTTP/2 connection of a peer, from what the event loop reads to what it writes.

A read is handled as a whole: libnghttp2 turns it into events, each complete request is handed to its method, and what
is to be sent is written at once. A method that answers with bytes so costs no task, no future and no second turn of the
loop. Only what waits, for the store or for the peer's flow control, gets a task or a timer.

Where an answer is: at first in libnghttp2, while the stream is open; then in the transport's buffer, `_written`; then with
the kernel, `_sent`. An answer is void if its stream is reset before it was sent, or its connection is lost before it was
written. It is void as well if the peer's reset crosses it: who resets a stream that was answered has not read the answer.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import ngh2
import structlog
from google.protobuf.message import DecodeError
from ngh2 import ErrorCode, NGH2Error, Setting

from keytoll.envoy.transport import wire
from keytoll.envoy.transport.calls import Call, Head, Methods, Stream, judge
from keytoll.envoy.transport.limits import Limits, Room
from keytoll.envoy.transport.wire import Code, Refusal, Refused, framed, refusal

_log = structlog.get_logger(__name__)

_WINDOW_BYTES = 1024 * 1024
_HEADER_BYTES = 64 * 1024
_WRITE_BYTES = 128 * 1024
_REMEMBERED = 256
_LAST_WORDS_S = 1.0
_LAST_PING = b"draining"


class Peers:
    """Who is connected. `gone` is set while nobody is."""

    def __init__(self) -> None:
        self.connected: set[Connection] = set()
        self.gone = asyncio.Event()
        self.gone.set()

    def add(self, connection: "Connection") -> None:
        """Note a new connection."""
        self.connected.add(connection)
        self.gone.clear()

    def discard(self, connection: "Connection") -> None:
        """Forget a connection."""
        self.connected.discard(connection)
        if not self.connected:
            self.gone.set()


class Connection(asyncio.Protocol):
    """Serves the calls of one peer."""

    def __init__(self, methods: Methods, *, limits: Limits, room: Room, peers: Peers) -> None:
        self._methods = methods
        self._limits = limits
        self._room = room
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._http2 = ngh2.Connection(
            ngh2.Role.SERVER,
            ngh2.Configuration(stream_reset_rate_limit=limits.resets, max_inbound_header_list_size=_HEADER_BYTES),
        )
        self._calls: dict[int, Call] = {}
        self._timed: list[Call] = []
        self._cut_short: list[Call] = []
        self._written: list[Call] = []
        self._sent: deque[Call] = deque(maxlen=_REMEMBERED)
        self._last_headers: tuple[tuple[bytes, bytes], ...] = ()
        self._last_head = Head(refusal=wire.NOT_POST)
        self._paused = False
        self._flushing = False
        self._aborted = False
        self._draining = False

    @property
    def open_calls(self) -> int:
        """How many calls are under way."""
        return len(self._calls)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer, unless there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._patience = self._loop.call_later(self._limits.handshake_s, self._abort)
        full = len(self._peers.connected) >= self._limits.connections
        self._peers.add(self)
        if full:
            _log.warning("too_many_connections", limit=self._limits.connections)
            return self._abort()
        self._transport.set_write_buffer_limits(high=_WRITE_BYTES)
        self._http2.initiate_connection(
            {
                Setting.MAX_CONCURRENT_STREAMS: self._limits.calls_per_connection,
                Setting.INITIAL_WINDOW_SIZE: _WINDOW_BYTES,
                Setting.MAX_HEADER_LIST_SIZE: _HEADER_BYTES,
            }
        )
        self._http2.set_local_window_size(_WINDOW_BYTES)
        return self._flush()

    def data_received(self, data: bytes) -> None:
        """Serve what a read brings, and write what is to be answered at once."""
        self._note_sent()
        try:
            self._http2.receive_data(data)
            self._take()
        except NGH2Error as error:
            return self._fail(error)
        return self._flush()

    def pause_writing(self) -> None:
        """Take no more from a peer who reads nothing, and wait for it, but not for ever."""
        self._paused = True
        self._wait(self._limits.stall_s)
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        if not self._transport.is_closing():
            self._patience.cancel()
            self._transport.resume_reading()
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every call. What was written, and then could not be sent, is void too."""
        self._patience.cancel()
        for call in list(self._calls.values()):
            self._end(call)
            call.void()
        self._calls.clear()
        if exc is not None or self._aborted:
            for call in self._written:
                call.void()
        self._peers.discard(self)

    def drain(self) -> None:
        """Ask the peer for no new calls, and close once those under way are done: RFC 9113, section 6.8.

        The peer's acknowledgement of the ping tells that it knows; until then it may have sent calls, which are served.
        """
        self._draining = True
        for call in [each for each in self._calls.values() if each.begun]:
            self._refuse(call, wire.STOPPING)
        try:
            self._http2.send_shutdown_notice()
            self._http2.ping(_LAST_PING)
        except NGH2Error:
            self._abort()
        self._flush()

    def finish(self) -> None:
        """End the calls that are still under way, and close, whether the peer reads or not."""
        if not self._transport.is_closing():
            for call in list(self._calls.values()):
                self._refuse(call, wire.STOPPING)
            self._flush()
            self._terminate(ErrorCode.NO_ERROR)
        self._wait(_LAST_WORDS_S)

    def _take(self) -> None:
        for event in self._http2.events():
            take = _TAKES.get(type(event))
            if take is not None:
                take(self, event)

    def _begin(self, event: ngh2.RequestReceived) -> None:
        # Envoy sends the same headers with each call: they are judged once.
        if event.headers != self._last_headers:
            self._last_headers, self._last_head = event.headers, judge(event.headers, self._methods)
        head = self._last_head
        self._calls[event.stream_id] = call = Call(event.stream_id, head, whole=event.end_stream)
        if head.refusal is not None:
            self._refuse(call, head.refusal)
        elif event.end_stream:
            self._refuse(call, wire.NO_MESSAGE)
        elif head.timeout_s is not None:
            self._timed.append(call)

    def _gather(self, event: ngh2.DataReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            return
        call.whole = event.end_stream
        if not call.open:
            return  # it was refused, and what still comes is dropped
        if call.whole and call.body is None:
            self._serve(call, event.data)
        else:
            self._collect(call, event.data)

    def _collect(self, call: Call, data: bytes) -> None:
        """Keep a part of a message until the rest is here."""
        body = call.body = bytearray() if call.body is None else call.body
        body += data
        fits = self._room.take(len(data))
        problem = wire.problem_in(body, call.head.encoding, most_bytes=self._limits.message_bytes)
        if problem is not None or not fits:
            self._refuse(call, problem or wire.TOO_MUCH)
        elif call.whole:
            self._serve(call, body)

    def _end_by_trailers(self, event: ngh2.TrailersReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.whole = True
            if call.open:
                self._serve(call, call.body or b"")

    def _serve(self, call: Call, body: bytes | bytearray) -> None:
        message = wire.message_in(body, call.head.encoding, most_bytes=self._limits.message_bytes)
        if not isinstance(message, bytes):
            return self._refuse(call, message)
        if call.body is not None:
            self._drop_body(call, call.body)
        method = call.head.method
        try:
            if isinstance(method, Stream):
                return self._feed(call, method, message)
            found = method.handle(message)
        except Exception as error:  # noqa: BLE001 - whatever a method raises is an answer to its peer
            return self._refuse(call, _refusal_of(error, call))
        if isinstance(found, bytes):
            return self._answer(call, found)
        call.work = asyncio.ensure_future(found)
        return call.work.add_done_callback(partial(self._finished, call))

    def _feed(self, call: Call, method: Stream, message: bytes) -> None:
        self._send(call, lambda stream_id: self._http2.send_response(stream_id, wire.HEADERS))
        call.begun = True
        call.leave = method.feed(message, partial(self._send_message, call))

    def _finished(self, call: Call, work: "asyncio.Future[bytes]") -> None:
        """Answer with what a method has waited for. An answer to a call that is over is void."""
        if work.cancelled():
            outcome: bytes | Refusal = wire.STOPPING
        elif (error := work.exception()) is not None:
            outcome = _refusal_of(error, call)
        else:
            outcome = work.result()
        if isinstance(outcome, bytes):
            self._answer(call, outcome)
        else:
            self._refuse(call, outcome)
        self._flush_soon()

    def _answer(self, call: Call, answer: bytes) -> None:
        call.answer = answer
        if not call.open:
            return call.void()
        call.open = False
        http2, stream_id = self._http2, call.stream_id
        try:
            http2.send_response(stream_id, wire.HEADERS)
            http2.send_data(stream_id, framed(answer))
            http2.send_trailers(stream_id, wire.TRAILERS)
        except NGH2Error:  # the stream was reset in the same read, or the connection has failed
            call.void()

    def _refuse(self, call: Call, reason: Refusal) -> None:
        if not call.open:
            return
        self._end(call)
        if call.begun:
            self._send(call, lambda stream_id: self._http2.send_trailers(stream_id, reason.trailers))
        else:
            self._send(call, lambda stream_id: self._http2.send_response(stream_id, reason.block, end_stream=True))
        if not call.whole:
            self._cut_short.append(call)

    def _send_message(self, call: Call, message: bytes) -> None:
        self._send(call, lambda stream_id: self._http2.send_data(stream_id, framed(message)))
        self._flush_soon()

    def _send(self, call: Call, send: Callable[[int], None]) -> None:
        try:
            send(call.stream_id)
        except NGH2Error:  # the stream was reset, or the connection has failed: both are told by an event
            call.left = True

    def _expire(self, call: Call) -> None:
        """End a call whose deadline has passed. An answer that the peer's flow control holds up is void."""
        if call.open:
            self._refuse(call, wire.EXPIRED)
        else:
            call.void()
            self._reset(call, ErrorCode.CANCEL)
        self._flush()

    def _note_reset(self, event: ngh2.StreamReset) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.left = True
            return
        for answered in (*self._written, *self._sent):
            if answered.stream_id == event.stream_id:
                answered.void()

    def _close_stream(self, event: ngh2.StreamClosed) -> None:
        call = self._calls.pop(event.stream_id, None)
        if call is None:
            return
        self._end(call)
        if call.left or event.error_code:
            call.void()
        elif call.answer is not None:
            self._written.append(call)

    def _end(self, call: Call) -> None:
        call.end()
        if call.body is not None:
            self._drop_body(call, call.body)

    def _drop_body(self, call: Call, body: bytearray) -> None:
        self._room.give(len(body))
        call.body = None

    def _reset(self, call: Call, code: ErrorCode) -> None:
        self._send(call, lambda stream_id: self._http2.reset_stream(stream_id, code))

    def _flush_soon(self) -> None:
        """Write once for all answers of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what is to be sent, as far as the socket takes it."""
        self._flushing = False
        if self._transport.is_closing():
            return
        try:
            self._write()
            for call in self._cut_short:  # answered before it was all asked: the peer need not send the rest
                if call.stream_id in self._calls:
                    self._reset(call, ErrorCode.NO_ERROR)
            if self._cut_short:
                self._cut_short.clear()
                self._write()
            if self._timed:
                self._set_timers()
            if self._http2.queued_body_size() > self._limits.unsent_bytes:
                self._terminate(ErrorCode.ENHANCE_YOUR_CALM)
        except NGH2Error as error:
            self._fail(error)

    def _write(self) -> None:
        while not self._paused and (ready := self._http2.data_to_send(_WRITE_BYTES)):
            self._transport.write(ready)
        self._take()  # streams end with what is written

    def _set_timers(self) -> None:
        """Set the deadlines of the calls of this read; most were answered in it, and need none."""
        for call in self._timed:
            if call.stream_id in self._calls and call.head.timeout_s is not None:
                call.timer = self._loop.call_later(call.head.timeout_s, self._expire, call)
        self._timed.clear()

    def _be_patient(self, _: ngh2.SettingsReceived) -> None:
        if not self._paused:
            self._patience.cancel()

    def _pinged(self, event: ngh2.PingAcknowledged) -> None:
        if self._draining and event.opaque_data == _LAST_PING:
            self._http2.send_goaway()

    def _close(self, event: ngh2.ConnectionClosed) -> None:
        if event.error_code:
            _log.warning("connection_closed", error=event.error_code, text=event.debug_data.decode("ascii", "replace"))
        self._wait(self._limits.stall_s)
        self._transport.close()

    def _fail(self, error: NGH2Error) -> None:
        _log.warning("connection_failed", error=str(error))
        self._wait(self._limits.stall_s)
        self._transport.close()

    def _terminate(self, code: ErrorCode) -> None:
        try:
            self._http2.terminate_connection(code)
            self._write()
        except NGH2Error:
            self._abort()

    def _wait(self, patience_s: float) -> None:
        """Close in any case after so long, even if the peer takes nothing of what it is sent."""
        self._patience.cancel()
        self._patience = self._loop.call_later(patience_s, self._abort)

    def _note_sent(self) -> None:
        if self._written and not self._transport.get_write_buffer_size():
            self._sent.extend(self._written)
            self._written.clear()

    def _abort(self) -> None:
        self._note_sent()
        self._aborted = True
        self._transport.abort()


_TAKES: dict[type[ngh2.Event], Callable[[Connection, Any], None]] = {
    ngh2.RequestReceived: Connection._begin,
    ngh2.DataReceived: Connection._gather,
    ngh2.TrailersReceived: Connection._end_by_trailers,
    ngh2.StreamReset: Connection._note_reset,
    ngh2.StreamClosed: Connection._close_stream,
    ngh2.SettingsReceived: Connection._be_patient,
    ngh2.PingAcknowledged: Connection._pinged,
    ngh2.ConnectionClosed: Connection._close,
}


def _refusal_of(error: BaseException, call: Call) -> Refusal:
    """Return what a peer is told of an exception: what it was is for the log, not for the wire."""
    if isinstance(error, Refused):
        return error.refusal
    if isinstance(error, DecodeError):
        return refusal(Code.INVALID_ARGUMENT, f"not a {call.head.method.request}")
    _log.error("check_failed", exc_info=error)
    return _FAILED


_FAILED = refusal(Code.INTERNAL, "Check failed")
