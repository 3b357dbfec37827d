"""A peer that speaks HTTP/2 by the byte, by the library h2: it may also say what no gRPC client would."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

from keytoll.envoy.check import CHECK_SERVICE
from keytoll.sockets import short_path
from transport.scripted import PATIENCE_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CHECK = f"/{CHECK_SERVICE}/Check"


def framed(message: bytes, *, flag: int = 0) -> bytes:
    """Return a gRPC message with its prefix."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


@dataclass(frozen=True, slots=True)
class Goaway:
    """The last stream that the server took up, and its reason to end."""

    last: int
    code: int


@dataclass(slots=True)
class Outcome:
    """What came back on a stream."""

    fields: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    reset: ErrorCodes | int | None = None
    ended: bool = False

    @property
    def code(self) -> int | None:
        """The gRPC status."""
        return int(self.fields["grpc-status"]) if "grpc-status" in self.fields else None

    @property
    def message(self) -> bytes:
        """The one message of a good answer."""
        assert self.code == 0, self
        assert self.data[0] == 0
        assert int.from_bytes(self.data[1:5], "big") == len(self.data) - 5
        return self.data[5:]


@dataclass(slots=True)
class Peer:
    """A connection. What it reads goes into `outcomes`, by stream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http2: H2Connection
    outcomes: dict[int, Outcome] = field(default_factory=lambda: defaultdict(Outcome))
    goaways: list[Goaway] = field(default_factory=list)
    unread: bytes = b""
    pongs: int = 0
    settled: bool = False
    gone: bool = False
    read_bytes: int = 0

    async def start(self, settings: Mapping[int, int] | None = None) -> None:
        """Say hello, and wait until the server has acknowledged it."""
        self.http2.initiate_connection()
        self.flush()
        await self.until(lambda: self.settled)
        if settings:
            await self.change(settings)

    async def change(self, settings: Mapping[int, int]) -> None:
        """Change settings, and wait until the server has acknowledged them."""
        self.settled = False
        self.http2.update_settings({SettingCodes(name): value for name, value in settings.items()})
        self.flush()
        await self.until(lambda: self.settled)

    def head(self, more: Mapping[str, str | None] | None = None, *, end: bool = False) -> int:
        """Send a call's headers, as Envoy does, but for those that are changed, or taken out by None."""
        stream_id = self.http2.get_next_available_stream_id()
        fields: dict[str, str | None] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": CHECK,
            ":authority": "keytoll",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        named = [(name, value) for name, value in (fields | dict(more or {})).items() if value is not None]
        self.http2.send_headers(stream_id, named, end_stream=end)
        return stream_id

    def body(self, stream_id: int, body: bytes, *, end: bool = True) -> None:
        """Send a part of a body, which fits into the window."""
        for start in range(0, len(body), 16384):
            last = start + 16384 >= len(body)
            self.http2.send_data(stream_id, body[start : start + 16384], end_stream=end and last)

    def ask(self, message: bytes, more: Mapping[str, str | None] | None = None) -> int:
        """Send a whole call, and return its stream."""
        stream_id = self.head(more)
        self.body(stream_id, framed(message))
        self.flush()
        return stream_id

    async def call(self, message: bytes, more: Mapping[str, str | None] | None = None) -> Outcome:
        """Send a whole call, and return what came of it."""
        return await self.outcome(self.ask(message, more))

    async def outcome(self, stream_id: int) -> Outcome:
        """Return what came of a call once it has ended."""
        found = self.outcomes[stream_id]
        await self.until(lambda: found.ended or self.gone)
        return found

    async def is_well(self) -> bool:
        """Tell whether another call is answered on this connection."""
        return (await self.call(b"well")).message == b"well"

    def reset(self, stream_id: int, code: int = ErrorCodes.NO_ERROR) -> None:
        """Give a call up."""
        self.http2.reset_stream(stream_id, code)
        self.flush()

    async def ping(self) -> None:
        """Return once the server has read all that was sent."""
        before = self.pongs
        self.http2.ping(b"whatever")
        self.flush()
        await self.until(lambda: self.pongs > before or self.gone)

    def flush(self) -> None:
        """Send what is to be sent."""
        self.raw(self.http2.data_to_send())

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    async def until(self, look: Callable[[], object]) -> None:
        """Read until it is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not look():
                await self.read()

    async def closed(self) -> None:
        """Read until the server closes the connection."""
        await self.until(lambda: self.gone)

    async def read(self) -> None:
        """Read once."""
        try:
            data = await self.reader.read(65536)
        except ConnectionError:
            data = b""
        self.read_bytes += len(data)
        if not data:
            self.gone = True
            return
        self._take(self.http2.receive_data(self._sifted(data)))
        if not self.writer.is_closing():
            self.flush()

    def _sifted(self, data: bytes) -> bytes:
        """Take out what says goaway: h2 would treat the connection as closed, and its calls as lost."""
        self.unread += data
        kept = b""
        while len(self.unread) >= 9 and len(self.unread) >= 9 + (size := int.from_bytes(self.unread[:3], "big")):
            one, self.unread = self.unread[: 9 + size], self.unread[9 + size :]
            if one[3] == 7:
                self.goaways.append(Goaway(*(int.from_bytes(one[place : place + 4], "big") for place in (9, 13))))
            else:
                kept += one
        return kept

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case ResponseReceived() | TrailersReceived():
                    pairs = [(bytes(name).decode(), bytes(value).decode()) for name, value in event.headers or ()]
                    self.outcomes[event.stream_id].fields.update(pairs)
                case DataReceived():
                    self.outcomes[event.stream_id].data += event.data
                    self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self.outcomes[event.stream_id].ended = True
                case StreamReset():
                    self.outcomes[event.stream_id].ended = True
                    self.outcomes[event.stream_id].reset = event.error_code
                case PingAckReceived():
                    self.pongs += 1
                case SettingsAcknowledged():
                    self.settled = True
                case _:
                    pass

    async def leave(self) -> None:
        """Close the connection."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def connected(path: Path, *, receive_buffer: int | None = None) -> AsyncIterator[Peer]:
    """Connect to a socket, without a word yet."""
    with short_path(path) as short:
        end = socket.socket(socket.AF_UNIX)
        end.setblocking(False)
        if receive_buffer is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        end.connect(short)
    reader, writer = await asyncio.open_unix_connection(sock=end)
    config = H2Configuration(
        client_side=True,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        header_encoding=False,
    )
    peer = Peer(reader, writer, H2Connection(config))
    try:
        yield peer
    finally:
        await peer.leave()


@asynccontextmanager
async def peer_of(path: Path, settings: Mapping[int, int] | None = None) -> AsyncIterator[Peer]:
    """Connect, and say hello."""
    async with connected(path) as peer:
        await peer.start(settings)
        yield peer
