"""A chat backend that keeps books of its own: one line in a file for each request that it answered, whole or cut.

It does what the prompt says, which begins with three numbers: the prompt tokens to report, the completion tokens to
make (one an event), and the milliseconds before each event, or before a plain answer. Every number of prompt tokens is
used once, so it is the request's identity everywhere: here, at the caller and in the ledger.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Served:
    """A request that reached the backend: the tokens it reports, and how many of the completion's were sent.

    `whole`: the answer was sent to its end.
    """

    number: int
    output: int
    sent: int
    whole: bool


def served_by(log: Path) -> list[Served]:
    """Read a backend's books."""
    return [Served(**json.loads(line)) for line in log.read_text().splitlines()]


def main() -> None:
    port, log = sys.argv[1:]
    asyncio.run(_serve(int(port), Path(log)))


async def _serve(port: int, log: Path) -> None:
    books = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(books), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as Envoy speaks it: one request at a time, with its length told."""

    def __init__(self, books: int) -> None:
        self._books = books
        self._received = b""
        self._answer: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if separator and len(rest) >= (length := _length(head)):
            self._received = rest[length:]
            self._answer = asyncio.create_task(self._serve(rest[:length]))

    def connection_lost(self, _: Exception | None) -> None:
        if self._answer is not None:
            self._answer.cancel()

    async def _serve(self, body: bytes) -> None:
        request = json.loads(body)
        number, output, delay_ms = map(int, request["messages"][0]["content"].split()[:3])
        sent, whole = 0, False
        try:
            if request.get("stream"):
                self._transport.write(_STREAM_HEAD)
                for event in _events(number, output):
                    await asyncio.sleep(delay_ms / 1000)
                    self._write_event(event)
                    sent += 1
                self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            else:
                await asyncio.sleep(delay_ms / 1000)
                self._transport.write(_plain(number, output))
                sent = output
            whole = not self._transport.is_closing()
        finally:
            self._note(Served(number, output, sent, whole))

    def _write_event(self, event: dict[str, Any]) -> None:
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        self._transport.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _note(self, served: Served) -> None:
        os.write(self._books, json.dumps(asdict(served)).encode() + b"\n")


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _plain(number: int, output: int) -> bytes:
    message = {"role": "assistant", "content": "x " * output}
    answer = {
        "id": str(number),
        "object": "chat.completion",
        "created": 1,
        "model": "counted",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": _usage(number, output),
    }
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _events(number: int, output: int) -> Iterator[dict[str, Any]]:
    """Each tells the usage so far, so that a stream which is cut is charged exactly."""
    for made in range(1, output + 1):
        choice = {"index": 0, "finish_reason": None, "delta": {"content": "x "}}
        yield {
            "id": str(number),
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "counted",
            "choices": [choice],
            "usage": _usage(number, made),
        }


def _usage(number: int, output: int) -> dict[str, int]:
    return {"prompt_tokens": number, "completion_tokens": output, "total_tokens": number + output}


if __name__ == "__main__":
    main()
