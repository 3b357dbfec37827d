"""What stands around every request of the API: a bound on its body, a strict reading of it, and no leak in an answer."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import HTTPException, Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keytoll.http.errors import error_answer, route_of

MAX_BODY_BYTES = 262_144

_log = structlog.get_logger(__name__)


class Guard:
    """Middleware: bounds bodies, forbids caching of answers, and answers what went wrong inside without telling it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        try:
            await self._app(scope, _bounded(scope, receive), answer)
        except Exception:
            _log.exception("request_failed", route=route_of(scope))
            if answer.started:
                raise
            failure = error_answer(
                500, "Something went wrong inside Keytoll; its log tells what", code="internal_error"
            )
            await failure(scope, receive, answer)


class StrictRoute(APIRoute):
    """A route that reads JSON strictly: a name that stands twice in an object is refused, since readers differ on it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, with a request that reads strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _Answer:
    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            MutableHeaders(scope=message).setdefault("cache-control", "no-store")
        await self._send(message)


class _StrictRequest(Request):
    async def json(self) -> Any:
        return json.loads(await self.body(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)


def _bounded(scope: Scope, receive: Receive) -> Receive:
    declared = Headers(scope=scope).get("content-length", "")
    too_large = declared.isdigit() and int(declared[:20]) > MAX_BODY_BYTES
    received_bytes = 0

    async def bounded_receive() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if too_large or received_bytes > MAX_BODY_BYTES:
            raise HTTPException(413, f"The body is too large; at most {MAX_BODY_BYTES // 1024} KiB are taken")
        return message

    return bounded_receive


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise HTTPException(400, "The body must not name a field twice")
    return fields


def _refuse_constant(constant: str) -> float:
    raise HTTPException(400, f"The body must be JSON, which knows no {constant}")
