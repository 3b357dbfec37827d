"""A model backend that answers as a test tells it to, and remembers what it was asked."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Script = Callable[["Asked"], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it reached the backend."""

    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class ScriptedBackend:
    """Set `script` to what the next requests shall get; `asked` holds all that came."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: Script = answer_plainly
        self.app = Starlette(routes=[Route("/{path:path}", self._serve, methods=["GET", "POST"])])

    def reset(self) -> None:
        """Forget what was asked, and answer plainly again."""
        self.asked.clear()
        self.script = answer_plainly

    async def _serve(self, request: Request) -> Response:
        asked = Asked(request.url.path, request.url.query, dict(request.headers), await request.body())
        self.asked.append(asked)
        return await self.script(asked)


def completion(**changes: object) -> dict[str, object]:
    """A chat completion of 7 prompt and 3 completion tokens."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "odd-upstream",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        **changes,
    }


async def answer_plainly(_: Asked) -> Response:
    return JSONResponse(completion())


def answering(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Script:
    """Answer with this JSON."""

    async def script(_: Asked) -> Response:
        return JSONResponse(body, status_code=status, headers=headers)

    return script


def streaming(pieces: list[bytes], *, then: Callable[[], Awaitable[None]] | None = None) -> Script:
    """Stream these pieces as they are cut, then wait for `then`; an exception of it cuts the connection."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
        if then is not None:
            await then()

    async def script(_: Asked) -> Response:
        return StreamingResponse(body(), media_type="text/event-stream")

    return script
