"""What stands around every request of the API: who asks is known, its body is bounded and read strictly, and its answer
leaks nothing and can't be framed, sniffed or cached.
"""

import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import HTTPException, Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keytoll.core.errors import InvalidValue
from keytoll.core.permissions import Actor
from keytoll.http.errors import error_answer, route_of
from keytoll.metrics import Metrics

MAX_BODY_BYTES = 262_144
_MAX_NAME = 100

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_ACTOR = "keytoll.actor"

_log = structlog.get_logger(__name__)


class Guard:
    """Middleware: bounds bodies, puts the headers of an answer, and answers what went wrong inside without telling it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        answer, began_s = _Answer(send, bodiless=scope["method"] == "HEAD"), time.perf_counter()
        if answer.bodiless:
            scope = {**scope, "method": "GET"}
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
        finally:
            operation = getattr(scope.get("route"), "operation_id", None) or "none"
            self._metrics.count_api_request(operation, answer.status, time.perf_counter() - began_s)


class OpenRoute(APIRoute):
    """A route that reads strictly: a name that stands twice, in a query or in an object of a body, is refused, since
    readers differ on it. It asks for no token.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, with a request that reads strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            _check_query(request)
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class GuardedRoute(OpenRoute):
    """The same for those who are known only: who asks is found out before anything else of a request is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, behind the gate of its app."""
        handle = super().get_route_handler()

        async def handle_known(request: Request) -> Response:
            request.scope[_ACTOR] = await request.app.state.gate.actor(request)
            return await handle(request)

        return handle_known


async def actor_of(request: Request) -> Actor:
    """Return who has sent a request of a guarded route."""
    actor: Actor = request.scope[_ACTOR]
    return actor


class _Answer:
    def __init__(self, send: Send, *, bodiless: bool) -> None:
        self._send = send
        self.bodiless = bodiless
        self.started = False
        self.status = 499  # the caller has left

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        elif self.bodiless:
            message = {**message, "body": b""}
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


def _check_query(request: Request) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    repeated = [name for name in names if names.count(name) > 1] if len(names) > len(set(names)) else []
    if repeated:
        raise InvalidValue(repeated[0][:_MAX_NAME], "must not be given twice")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise HTTPException(400, "The body must not name a field twice")
    return fields


def _refuse_constant(constant: str) -> float:
    raise HTTPException(400, f"The body must be JSON, which knows no {constant}")
