"""A proxy between clients and a server on loopback that cuts, delays or refuses, or falls silent, when a test says so."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """What a test does to the connections. `delay_s` is what each piece takes at least from one side to the other.

    `round_trips` counts how often the server answered what a client had sent.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._left_bytes: int | None = None
        self.port = 0
        self.delay_s = 0.0
        self.round_trips = 0

    async def open(self) -> None:
        """Take connections, if it doesn't: on a free port at first, on the same one later."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self.accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Refuse every connection from now on, and cut all that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Cut all connections that there are."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def reset(self) -> None:
        """Cut all connections that there are by a TCP reset, which drops what is on its way."""
        for writer in self._writers:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()

    def cut_after(self, sent_bytes: int) -> None:
        """Cut all connections once clients have sent so much more."""
        self._left_bytes = sent_bytes

    def fall_silent(self) -> None:
        """Pass nothing on any more, in either direction."""
        self._speaks.clear()

    def speak(self) -> None:
        """Pass everything on again."""
        self._speaks.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until one side closes."""
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, other_writer}
        asked = asyncio.Event()
        pipes = [
            asyncio.create_task(self._pipe(reader, other_writer, asked, sent=True)),
            asyncio.create_task(self._pipe(other_reader, writer, asked, sent=False)),
        ]
        self._pipes |= set(pipes)
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pipe in pipes:
                pipe.cancel()
            for each in (writer, other_writer):
                each.transport.abort()
            self._writers -= {writer, other_writer}
            self._pipes -= set(pipes)

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event, *, sent: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._speaks.wait()
                if sent and self._is_enough(len(data)):
                    self.cut()
                    return
                self._count(asked, sent=sent)
                writer.write(data)
                await writer.drain()

    def _count(self, asked: asyncio.Event, *, sent: bool) -> None:
        if sent:
            asked.set()
        elif asked.is_set():
            asked.clear()
            self.round_trips += 1

    def _is_enough(self, sent_bytes: int) -> bool:
        if self._left_bytes is None:
            return False
        self._left_bytes -= sent_bytes
        if self._left_bytes > 0:
            return False
        self._left_bytes = None
        return True


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """Run a proxy to a port."""
    proxy = Proxy(port)
    await proxy.open()
    try:
        yield proxy
    finally:
        proxy.speak()
        proxy.close()
