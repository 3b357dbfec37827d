"""How errors are told: in the shape of OpenAI's API, naming the field at fault, without anything internal."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from keytoll.core.errors import InvalidValue
from keytoll.core.expiry import format_timestamp
from keytoll.core.permissions import Forbidden, Hidden, SignedOut
from keytoll.http.guesses import TooManyFailures
from keytoll.http.sign_in import NOT_IN_FORCE, CrossSite, Unauthenticated
from keytoll.management import (
    ChargeNotFound,
    KeyNotFound,
    MemberNotFound,
    NotEverywhere,
    RepeatDiffers,
    RepeatOfDeleted,
    TokenNotFound,
)
from keytoll.store.base import (
    AskedMeanwhile,
    KeyChanged,
    LastAdmin,
    NameTaken,
    OwnerDeleted,
    OwnerNotFound,
    OwnerTaken,
    StoreUnavailable,
)

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


async def _on_unauthenticated(_: Request, exc: Unauthenticated) -> Response:
    return error_answer(401, str(exc), code="invalid_access_token", headers={"www-authenticate": "Bearer"})


async def _on_signed_out(request: Request, _exc: Exception) -> Response:
    return await _on_unauthenticated(request, Unauthenticated(NOT_IN_FORCE))


async def _on_too_many_failures(_: Request, exc: TooManyFailures) -> Response:
    message = "Too many attempts with wrong access tokens came from this address; try again later"
    headers = {"retry-after": str(exc.retry_after_s)}
    return error_answer(429, message, code="rate_limit_exceeded", headers=headers)


async def _on_cross_site(_request: Request, _exc: Exception) -> Response:
    message = "A session in a browser can be used by the console's own pages only"
    return error_answer(403, message, code="permission_denied")


async def _on_forbidden(_: Request, exc: Forbidden) -> Response:
    return error_answer(403, str(exc) or "You may not do this", code="permission_denied")


def _not_found(what: str) -> Callable[[Request, Any], Awaitable[Response]]:
    async def on_not_found(_request: Request, _exc: Exception) -> Response:
        return error_answer(404, what, code="not_found")

    return on_not_found


async def _on_owner_taken(_request: Request, _exc: Exception) -> Response:
    return error_answer(409, "name: it is taken", param="name", code="name_taken")


async def _on_owner_deleted(request: Request, _exc: Exception) -> Response:
    param = "owner" if request.path_params else "name"  # where the path names the owner, a name is that of its key
    message = f"{param}: an owner of this name was deleted; names aren't used twice, since charges are kept by them"
    return error_answer(409, message, param=param, code="name_taken")


async def _on_last_admin(_request: Request, _exc: Exception) -> Response:
    message = "The organization would be left without an admin; make somebody else one first"
    return error_answer(409, message, param="user", code="last_admin")


async def _on_name_taken(_request: Request, _exc: Exception) -> Response:
    return error_answer(409, "name: the owner has another key of this name", param="name", code="name_taken")


async def _on_not_everywhere(_: Request, exc: NotEverywhere) -> Response:
    return not_everywhere(exc)


def not_everywhere(partly: NotEverywhere, made: BaseModel | None = None) -> Response:
    """Return the answer that a change was made, with what it made, but not yet everywhere."""
    not_yet = [{"replica": each.replica, "until": format_timestamp(each.until_us)} for each in partly.not_yet]
    shown = {} if made is None else made.model_dump(mode="json")
    return JSONResponse({**shown, "not_yet": not_yet}, status_code=202)


async def _on_key_changed(_request: Request, _exc: Exception) -> Response:
    message = "The key is being changed by others again and again; look at it, and try again"
    return error_answer(409, message, code="key_changed")


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


async def _on_wrong_method(request: Request, _exc: Exception) -> Response:
    """Tell all methods of the path, each of which is a route of its own."""
    headers = {"allow": ", ".join(sorted(_methods_of(request)))}
    return error_answer(405, "Method not allowed", code="method_not_allowed", headers=headers)


def _methods_of(request: Request) -> Iterator[str]:
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            yield from route.methods


_OWNER_NOT_FOUND = _not_found("There is no such person or organization")
_HANDLERS: Mapping[type[Exception] | int, Callable[[Request, Any], Awaitable[Response]]] = {
    RequestValidationError: _on_bad_request,
    InvalidValue: _on_invalid_value,
    Unauthenticated: _on_unauthenticated,
    SignedOut: _on_signed_out,
    TooManyFailures: _on_too_many_failures,
    CrossSite: _on_cross_site,
    Forbidden: _on_forbidden,
    Hidden: _OWNER_NOT_FOUND,  # exactly as if it weren't there
    OwnerNotFound: _OWNER_NOT_FOUND,
    KeyNotFound: _not_found("There is no key of this id"),
    ChargeNotFound: _not_found("There is no charge of this id"),
    MemberNotFound: _not_found("This person is not a member of the organization"),
    TokenNotFound: _not_found("This person has no access token"),
    OwnerTaken: _on_owner_taken,
    OwnerDeleted: _on_owner_deleted,
    LastAdmin: _on_last_admin,
    NameTaken: _on_name_taken,
    NotEverywhere: _on_not_everywhere,
    KeyChanged: _on_key_changed,
    AskedMeanwhile: _on_key_changed,
    RepeatDiffers: _on_repeat_differs,
    RepeatOfDeleted: _on_repeat_of_deleted,
    StoreUnavailable: on_store_unavailable,
    405: _on_wrong_method,
    HTTPException: _on_http_exception,
}
