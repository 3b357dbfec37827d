"""What callers read with their own key, by way of the data listener: the models it may use, and the key itself.

It asks for no key: Envoy is the only one that reaches the socket it is served on, Check has judged the request before, and
named its key in a header that no caller can set. A request without that header has come some other way, and is refused.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keytoll.core.offer import Offer, Offers
from keytoll.http.contract.keys import OwnKey
from keytoll.http.errors import error_answer, on_store_unavailable
from keytoll.management import Standing
from keytoll.store.base import StoredKey, StoreUnavailable

KEY_HEADER = "x-kt-key-id"
"""In which Check names the key that asks."""

_CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed"}


def create_reads(
    offers: Callable[[], Offers],
    *,
    key_of: Callable[[str], Awaitable[StoredKey | None]],
    standing: Callable[[StoredKey], Standing],
) -> ASGIApp:
    """Return the app. `offers` is called at each request, since a new catalog replaces what is on offer.

    `key_of` gives the key of an id, `standing` how it stands now.
    """

    async def asking(request: Request) -> StoredKey:
        stored = await key_of(request.headers[KEY_HEADER])
        if stored is None:  # deleted since its Check
            raise HTTPException(401, "This API key does not exist or was deleted")
        return stored

    async def list_models(request: Request) -> Response:
        key = (await asking(request)).key
        return JSONResponse(
            {"object": "list", "data": [_model(offer) for offer in offers().values() if key.allows(offer.model)]}
        )

    async def show_model(request: Request) -> Response:
        key, offer = (await asking(request)).key, offers().get(request.path_params["model"])
        return _no_model() if offer is None or not key.allows(offer.model) else JSONResponse(_model(offer))

    async def show_key(request: Request) -> Response:
        stored = await asking(request)
        return JSONResponse(OwnKey.of(stored, standing(stored)).model_dump(mode="json"))

    routes = [
        Route("/v1/key", show_key),
        Route("/v1/models", list_models),
        Route("/v1/models/{model:path}", show_model),  # a model's name may hold slashes
    ]
    app = Starlette(
        routes=routes, exception_handlers={HTTPException: _http_error, StoreUnavailable: on_store_unavailable}
    )
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
