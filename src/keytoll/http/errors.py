"""How errors are told: in the shape of OpenAI's API, naming the field at fault, without anything internal."""

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from keytoll.core.errors import InvalidValue
from keytoll.management import ChargeNotFound, KeyNotFound, RepeatDiffers, RepeatOfDeleted
from keytoll.store.base import NameTaken, OwnerDeleted, StoreUnavailable

ONCE_HEADER = "Idempotency-Key"
"""Under which a caller may repeat a change without having it made twice."""

_MAX_PARAM = 100
_OWN_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "string_unicode": "must be text without lone surrogates",
}
_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
_STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}

_log = structlog.get_logger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app in the one shape."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


def error_answer(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the answer that tells an error."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    # In ASCII: what it quotes of a request may hold lone surrogates, which UTF-8 can't.
    return Response(json.dumps({"error": error}), status, dict(headers or {}), "application/json")


def route_of(scope: Scope) -> str:
    """Return the method and the route's pattern, for logs: a path itself may hold a secret that was taken for an id."""
    return f"{scope['method']} {getattr(scope.get('route'), 'path', 'unknown')}"


async def _on_bad_request(_: Request, exc: RequestValidationError) -> Response:
    first: Mapping[str, Any] = exc.errors()[0]
    kind, (where, *path) = str(first["type"]), first["loc"]
    if where == "body" and (kind == "json_invalid" or not path):
        return error_answer(400, "The body must be a JSON object, sent as Content-Type: application/json")
    param = ".".join(map(str, path))[:_MAX_PARAM]
    words = _OWN_WORDS.get(kind) or str(first["msg"]).replace("Input should be", "must be")
    return error_answer(400, f"{param}: {words}", param=param, code=_CODES.get(kind, "invalid_value"))


async def _on_invalid_value(_: Request, exc: InvalidValue) -> Response:
    return error_answer(400, str(exc), param=exc.field, code="invalid_value")


async def _on_key_not_found(_request: Request, _exc: Exception) -> Response:
    return error_answer(404, "There is no key of this id", code="not_found")


async def _on_charge_not_found(_request: Request, _exc: Exception) -> Response:
    return error_answer(404, "There is no charge of this id", code="not_found")


async def _on_name_taken(_request: Request, _exc: Exception) -> Response:
    return error_answer(409, "name: the owner has another key of this name", param="name", code="name_taken")


async def _on_owner_deleted(_request: Request, _exc: Exception) -> Response:
    message = "name: an owner of this name was deleted; names aren't used twice"
    return error_answer(409, message, param="name", code="name_taken")


async def _on_repeat_differs(_request: Request, _exc: Exception) -> Response:
    message = f"{ONCE_HEADER}: something else was asked for under this id within the last 24 hours; use another one"
    return error_answer(422, message, param=ONCE_HEADER, code="idempotency_key_reused")


async def _on_repeat_of_deleted(_request: Request, _exc: Exception) -> Response:
    message = f"{ONCE_HEADER}: this was done before, and its key was deleted since; to do it anew use another id"
    return error_answer(409, message, param=ONCE_HEADER, code="idempotency_key_used")


async def on_store_unavailable(request: Request, exc: Exception) -> Response:
    """Tell that the store is away, and log why."""
    _log.warning("store_unavailable", route=route_of(request.scope), error=repr(exc.__cause__ or exc))
    message = "The store is unavailable at the moment"
    return error_answer(503, message, code="service_unavailable", headers={"retry-after": "1"})


async def _on_http_exception(_: Request, exc: HTTPException) -> Response:
    reason = exc.detail or HTTPStatus(exc.status_code).phrase
    return error_answer(exc.status_code, reason, code=_STATUS_CODES.get(exc.status_code), headers=exc.headers)


_HANDLERS: Mapping[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
    RequestValidationError: _on_bad_request,
    InvalidValue: _on_invalid_value,
    KeyNotFound: _on_key_not_found,
    ChargeNotFound: _on_charge_not_found,
    NameTaken: _on_name_taken,
    OwnerDeleted: _on_owner_deleted,
    RepeatDiffers: _on_repeat_differs,
    RepeatOfDeleted: _on_repeat_of_deleted,
    StoreUnavailable: on_store_unavailable,
    HTTPException: _on_http_exception,
}
