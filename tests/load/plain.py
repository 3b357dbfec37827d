"""Callers of few words: HTTP/1.1 by hand over kept connections, at a small part of what httpx takes for a request."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from load.calls import CHAT_PATH, Ask, Outcome

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PlainCallers:
    """Sends requests with one key, each over a connection that is free, or a new one."""

    def __init__(self, url: str, secret: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port
        self._head = (
            f"POST {CHAT_PATH} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {secret}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._free: list[_Connection] = []
        self.running = 0
        """How many requests have no outcome yet."""

    async def send(self, ask: Ask) -> Outcome:
        """Send a request once."""
        self.running += 1
        try:
            return await self._send(ask)
        finally:
            self.running -= 1

    async def _send(self, ask: Ask) -> Outcome:
        connection = self._free.pop() if self._free else await asyncio.open_connection(self._host, self._port)
        try:
            outcome, reusable = await self._ask(ask, *connection)
        except (OSError, EOFError):
            outcome, reusable = Outcome(ask, 0), False
        if reusable:
            self._free.append(connection)
        else:
            connection[1].close()
        return outcome

    async def _ask(self, ask: Ask, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Outcome, bool]:
        body = ask.body
        writer.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = re.search(rb"content-length: (\d+)", head)
        if length is not None:
            await reader.readexactly(int(length[1]))
            return Outcome(ask, status, whole=status == 200), True
        return await _read_stream(ask, status, reader)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._free:
            writer.close()


@asynccontextmanager
async def plainly_calling(url: str, secret: str) -> AsyncIterator[PlainCallers]:
    """Call with the key's secret."""
    callers = PlainCallers(url, secret)
    try:
        yield callers
    finally:
        callers.close()


async def _read_stream(ask: Ask, status: int, reader: asyncio.StreamReader) -> tuple[Outcome, bool]:
    got = b""
    try:
        while chunk := await _chunk(reader):
            got += chunk
            events = got.count(b"data: {")
            if ask.cut_after is not None and events >= ask.cut_after:
                return Outcome(ask, status, events=ask.cut_after), False
    except (OSError, EOFError):
        return Outcome(ask, status, events=got.count(b"data: {")), False
    return Outcome(ask, status, events=got.count(b"data: {"), whole=b"data: [DONE]" in got), True


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """Return the next chunk of a body, the last one being empty."""
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]
