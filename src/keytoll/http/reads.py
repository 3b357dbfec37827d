"""What callers read with their own key, by way of the data listener: the models on offer, in the shape of OpenAI's API.

It asks for no key: Envoy is the only one that reaches the socket it is served on, Check has judged the request before, and
named its key in a header that no caller can set. A request without that header has come some other way, and is refused.
"""

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keytoll.core.offer import Offer, Offers
from keytoll.http.errors import error_answer

KEY_HEADER = "x-kt-key-id"
"""In which Check names the key that asks."""

_CODES = {404: "not_found", 405: "method_not_allowed"}


def create_reads(offers: Callable[[], Offers]) -> ASGIApp:
    """Return the app. `offers` is called at each request, since a new catalog replaces what is on offer."""

    async def list_models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(offer) for offer in offers().values()]})

    async def show_model(request: Request) -> Response:
        offer = offers().get(request.path_params["model"])
        return _no_model() if offer is None else JSONResponse(_model(offer))

    # A model's name may hold slashes.
    routes = [Route("/v1/models", list_models), Route("/v1/models/{model:path}", show_model)]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False
    return _OfCheckedRequests(app)


class _OfCheckedRequests:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what Check has let through."""
        if scope["type"] == "http" and not Request(scope).headers.get(KEY_HEADER):
            answer = error_answer(401, "No API key; send it as Authorization: Bearer", code="invalid_api_key")
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _model(offer: Offer) -> dict[str, Any]:
    # OpenAI's clients need `created`; of a model that was on offer from the start there is no such instant.
    created_s = max(0, offer.prices[0].from_us // 1_000_000)
    return {"id": offer.model, "object": "model", "created": created_s, "owned_by": "keytoll"}


def _no_model() -> Response:
    message = "This model does not exist, or this key may not use it"
    return error_answer(404, message, param="model", code="model_not_found")


async def _http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return error_answer(error.status_code, error.detail, code=_CODES.get(error.status_code), headers=error.headers)
