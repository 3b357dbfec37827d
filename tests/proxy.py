"""A proxy between a client and a server on loopback that cuts connections, or falls silent, when a test says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """What a test does to the connections. `passed_bytes` counts what clients sent since the last `cut_after`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._left_bytes: int | None = None
        self.port = 0

    def cut(self) -> None:
        """Cut all connections that there are."""
        for writer in tuple(self._writers):
            writer.transport.abort()

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
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, other_writer}
        pipes = [
            asyncio.create_task(self._pipe(reader, other_writer, sent=True)),
            asyncio.create_task(self._pipe(other_reader, writer, sent=False)),
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

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, sent: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._speaks.wait()
                if sent and self._is_enough(len(data)):
                    self.cut()
                    return
                writer.write(data)
                await writer.drain()

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
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.speak()
        proxy.cut()
