"""A caller with one connection, whose requests are written and read by hand: a thousand of them share one CPU."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class Caller:
    """Posts to one path of a server on loopback, with a key's secret unless a request has another's.

    Its connection is opened when it is needed, and again after an answer that closed it.
    """

    def __init__(self, port: int, *, secret: str, path: str) -> None:
        self._port = port
        self._secret = secret
        self._head = f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n".encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def connected(self) -> bool:
        """Whether the next request goes out on the connection of the last one."""
        return self._streams is not None

    async def post(self, body: bytes, *, secret: str | None = None) -> Answer:
        """Post JSON. Raises OSError or EOFError where the connection breaks."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            head = f"authorization: Bearer {secret or self._secret}\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(self._head + head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            (length,) = (line.partition(b":")[2] for line in lines if line.startswith(b"content-length:"))
            answer = Answer(int(lines[0].split()[1]), await reader.readexactly(int(length)))
        except BaseException:
            await self.close()
            raise
        if b"connection: close" in lines:
            await self.close()
        return answer

    async def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.transport.abort()


@asynccontextmanager
async def calling_by_hand(port: int, *, secret: str, path: str) -> AsyncIterator[Caller]:
    """Give a caller."""
    caller = Caller(port, secret=secret, path=path)
    try:
        yield caller
    finally:
        await caller.close()
