"""The calls: each endpoint plain and streamed, cut by its caller, and refused, by OpenAI's own client."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import httpx
import openai

from real_backends.backends import Backend
from real_backends.tap import Recording

TOLLS, COUNTED, SLOWLY = "Tell me about tolls, please", "Tell me about counted tolls", "Tell me slowly about tolls"
HANG_UP = "Tell me about tolls, then hang up"
SHORT, LONG = 12, 400
"""Token limits: of an answer that is read to its end, and of one that is cut long before it."""


class Wrong(Exception):
    """What the caller got isn't what it should have got."""


class Expected(Enum):
    """What a call must leave in the ledger."""

    REPORTED = "what the backend reported"
    CUT = "what is known of an answer that was cut"
    NOTHING = "a row of 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Who asks, for which model, and the recording of what passes at the backend meanwhile."""

    client: openai.AsyncOpenAI
    model: str
    recording: Recording


Run = Callable[[Asking], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`run` makes it, and raises Wrong. `direct`, if any, is the same request made plain: its tokens must be the same."""

    endpoint: str
    what: str
    run: Run
    expected: Expected = Expected.REPORTED
    direct: Run | None = None


def calls_for(backend: Backend) -> Sequence[Call]:
    """Return every call to be made to a backend, those that it refuses among them."""
    calls: list[Call] = []
    for endpoint in _REQUESTS:
        calls += _calls(endpoint) if endpoint in backend.endpoints else [_refused(endpoint)]
    return [*calls, *_further(backend)]


def _calls(endpoint: str) -> Sequence[Call]:
    if endpoint == "embeddings":
        plain = _plain(endpoint)
        return [Call(endpoint=endpoint, what="plain", run=plain, direct=plain)]
    further = [_stream_absent()] if endpoint == "responses" else _with_options(endpoint)
    return [*_whole(endpoint, TOLLS), *further, *_cut(endpoint)]


def _whole(endpoint: str, text: str, *, note: str = "") -> Sequence[Call]:
    plain = _plain(endpoint, text, stream=False)
    runs = {"plain": plain, "stream": _streamed(endpoint, text), "stream, its bytes": _its_bytes(endpoint, text)}
    return [Call(endpoint=endpoint, what=what + note, run=run, direct=plain) for what, run in runs.items()]


def _with_options(endpoint: str) -> Sequence[Call]:
    asked = _streamed(endpoint, stream_options={"include_usage": True})
    return [
        Call(endpoint=endpoint, what="stream, usage asked", run=asked, direct=_plain(endpoint)),
        Call(endpoint=endpoint, what="stream, n=2", run=_streamed(endpoint, n=2), direct=_plain(endpoint, n=2)),
    ]


def _stream_absent() -> Call:
    """Neither true nor false: some backends stream then, which the SDK's parser doesn't expect."""

    async def run(asking: Asking) -> None:
        await _resource(asking, "responses").with_raw_response.create(**_request(asking, "responses"))

    return Call(endpoint="responses", what="`stream` absent", run=run, direct=_plain("responses", stream=False))


def _cut(endpoint: str) -> Sequence[Call]:
    async def after_two_events(asking: Asking) -> None:
        stream = await _create(asking, endpoint, SLOWLY, LONG, stream=True)
        for _ in range(2):
            await anext(stream)
        await stream.close()

    async def before_its_answer(asking: Asking) -> None:
        task = asyncio.create_task(_create(asking, endpoint, SLOWLY, LONG, stream=False))
        await asking.recording.asked.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    runs = {"stream, cut": after_two_events, "plain, cut": before_its_answer}
    return [Call(endpoint=endpoint, what=what, run=run, expected=Expected.CUT) for what, run in runs.items()]


def _refused(endpoint: str) -> Call:
    async def run(asking: Asking) -> None:
        with suppress(openai.APIStatusError):
            await _create(asking, endpoint, TOLLS, SHORT)

    return Call(endpoint=endpoint, what="plain, refused", run=run, expected=Expected.NOTHING)


def _further(backend: Backend) -> Sequence[Call]:
    """Only one backend can do it."""
    if backend.name == "transformers":
        return [_unasked_and_cut()]
    if backend.name == "aimock":
        return [*_whole("responses", COUNTED, note=", usage set"), _hung_up()]
    return []


def _unasked_and_cut() -> Call:
    """A stream that nobody asked for is cut as well."""

    async def run(asking: Asking) -> None:
        request = _request(asking, "responses", SLOWLY, LONG)
        async with _resource(asking, "responses").with_streaming_response.create(**request) as response:
            await anext(response.iter_bytes())

    return Call(endpoint="responses", what="`stream` absent, cut", run=run, expected=Expected.CUT)


def _hung_up() -> Call:
    """The backend ends its stream in the middle."""

    async def run(asking: Asking) -> None:
        with suppress(openai.APIError, httpx.TransportError):
            await _streamed("chat/completions", HANG_UP)(asking)
            raise Wrong("the stream seemed to end well")

    return Call(endpoint="chat/completions", what="stream, hung up", run=run, expected=Expected.CUT)


# ---------------------------------------------------------------------------------------------------- ways of calling


def _plain(endpoint: str, text: str = TOLLS, **options: Any) -> Run:
    async def run(asking: Asking) -> None:
        await _create(asking, endpoint, text, SHORT, **options)

    return run


def _streamed(endpoint: str, text: str = TOLLS, **options: Any) -> Run:
    """Whoever asked for the usage sees it; nobody else sees the chunk without choices."""

    async def run(asking: Asking) -> None:
        stream = await _create(asking, endpoint, text, SHORT, stream=True, **options)
        events = [event async for event in stream]
        if "stream_options" in options:
            if events[-1].usage is None:
                raise Wrong("the caller didn't see the usage that it asked for")
        elif any(getattr(event, "choices", None) == [] for event in events):
            raise Wrong("the caller saw a chunk that it didn't ask for")

    return run


def _its_bytes(endpoint: str, text: str) -> Run:
    """The caller gets what the backend sent, byte for byte, but for the chunk that it didn't ask for."""

    async def run(asking: Asking) -> None:
        request = _request(asking, endpoint, text)
        async with _resource(asking, endpoint).with_streaming_response.create(**request, stream=True) as response:
            got = b"".join([piece async for piece in response.iter_bytes()])
        events = re.findall(rb".+?(?:\n\n|\Z)", asking.recording.answer().body, re.DOTALL)
        if got != b"".join(event for event in events if b'"choices":[]' not in event):
            raise Wrong("the caller got other bytes")

    return run


async def _create(asking: Asking, endpoint: str, text: str, limit: int, **options: Any) -> Any:
    return await _resource(asking, endpoint).create(**_request(asking, endpoint, text, limit), **options)


def _resource(asking: Asking, endpoint: str) -> Any:
    client = asking.client
    return client.chat.completions if endpoint == "chat/completions" else getattr(client, endpoint)


def _request(asking: Asking, endpoint: str, text: str = TOLLS, limit: int = SHORT) -> dict[str, Any]:
    return {"model": asking.model} | _REQUESTS[endpoint](text, limit)


_REQUESTS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "chat/completions": lambda text, limit: {"messages": [{"role": "user", "content": text}], "max_tokens": limit},
    "completions": lambda text, limit: {"prompt": text, "max_tokens": limit},
    "responses": lambda text, limit: {"input": text, "max_output_tokens": limit},
    "embeddings": lambda text, _: {"input": [text, "one more"]},
}
