"""A tap between Envoy and a backend: it passes bytes on as they are and keeps what the backend answered.

So what a backend reported is known from its own bytes, also where the caller never sees it or left before.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one request; `input` includes the cached ones, as OpenAI counts them."""

    input: int = 0
    cached: int = 0
    output: int = 0

    def __str__(self) -> str:
        return f"{self.input}/{self.output}" + (f" ({self.cached} cached)" if self.cached else "")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the backend answered, as far as it came. A `status` of 0: nothing; `tokens` None: no usage in it."""

    status: int
    tokens: Tokens | None
    body: bytes


@dataclass(slots=True)
class Recording:
    """What passed since the recording began; `asked` is set once the request's first bytes have reached the backend."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    received: bytearray = field(default_factory=bytearray)

    def answer(self) -> Answer:
        """Return the answer. There must be only one."""
        status, content_type, body = _parsed(bytes(self.received))
        documents = _events(body) if "text/event-stream" in content_type else _document(body)
        tokens = [_tokens(usage) for document in documents if (usage := _usage(document)) is not None]
        return Answer(status, tokens[-1] if tokens else None, body)


class Tap:
    """Listens on `port` for the backend on `backend_port`."""

    def __init__(self, backend_port: int) -> None:
        self.port = 0
        self._backend_port = backend_port
        self._recording = Recording()

    def record(self) -> Recording:
        """Begin a new recording. What still comes of an earlier request goes to the earlier one."""
        self._recording = Recording()
        return self._recording

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Tap"]:
        """Listen as long as the context lasts."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, from_envoy: asyncio.StreamReader, to_envoy: asyncio.StreamWriter) -> None:
        from_backend, to_backend = await asyncio.open_connection("127.0.0.1", self._backend_port)
        current = [self._recording]

        async def ask() -> None:
            async for piece in _pieces(from_envoy):
                current[0] = self._recording
                to_backend.write(piece)
                current[0].asked.set()

        async def answer() -> None:
            async for piece in _pieces(from_backend):
                current[0].received += piece
                to_envoy.write(piece)

        # Whichever side ends first ends the other one: a caller's abort must reach the backend.
        tasks = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for writer in (to_backend, to_envoy):
            writer.close()


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            yield piece


def _parsed(received: bytes) -> tuple[int, str, bytes]:
    """Return the status, the content type and as much of the body as came."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "backend")]))
    connection.send(h11.EndOfMessage())
    status, content_type, body = 0, "", b""
    if received:  # to h11, no bytes are an end
        connection.receive_data(received)
    while isinstance(event := connection.next_event(), h11.Response | h11.Data):
        if isinstance(event, h11.Response):
            status = event.status_code
            content_type = dict(event.headers).get(b"content-type", b"").decode()
        else:
            body += bytes(event.data)
    return status, content_type, body


def _events(body: bytes) -> Iterator[Any]:
    """The documents of a stream; a last one that was cut is none."""
    for line in body.splitlines(keepends=True):
        if line.startswith(b"data:") and line.endswith(b"\n") and b"[DONE]" not in line:
            yield json.loads(line.removeprefix(b"data:"))


def _document(body: bytes) -> Iterator[Any]:
    with contextlib.suppress(ValueError):
        yield json.loads(body)


def _usage(document: Any) -> Mapping[str, Any] | None:
    """The usage in OpenAI's places: the top level, and within `response` in the Responses API's last event."""
    if not isinstance(document, dict):
        return None
    within = document.get("response")
    return document.get("usage") or (within.get("usage") if isinstance(within, dict) else None)


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return Tokens(
        input=usage["prompt_tokens"] if "prompt_tokens" in usage else usage["input_tokens"],
        cached=details.get("cached_tokens") or 0,
        output=usage.get("completion_tokens", usage.get("output_tokens", 0)),
    )
