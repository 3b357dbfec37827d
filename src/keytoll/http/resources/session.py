"""Who asks, and browsers' sessions; the deployment, and the document of all of this."""

from typing import Any

from fastapi import APIRouter, Request, Response

from keytoll.core.permissions import Actor, Operator
from keytoll.http.contract.common import About
from keytoll.http.contract.owners import Me, SessionIn
from keytoll.http.guard import GuardedRoute, OpenRoute
from keytoll.http.resources.common import ROOT, By, Deployment, Nothing, Services, TheGate, problems
from keytoll.http.sign_in import check_same_origin, clear_cookie, set_cookie
from keytoll.management import Management

_known = APIRouter(prefix=ROOT, route_class=GuardedRoute, tags=["session"])
_open = APIRouter(prefix=ROOT, route_class=OpenRoute, tags=["session"])
ROUTERS = (_known, _open)


@_known.get("/about", operation_id="get_about", tags=["deployment"])
async def get_about(_: Nothing, about: Deployment) -> About:
    """Tell the version, the currency and the billing time zone."""
    return about


@_known.get("/me", operation_id="get_me")
async def get_me(_: Nothing, by: By, services: Services) -> Me:
    """Tell who asks."""
    return await _me(by, services)


@_open.post("/session", operation_id="sign_in", responses=problems(401, 403, 413, 429))
async def sign_in(
    body: SessionIn, _: Nothing, gate: TheGate, services: Services, request: Request, response: Response
) -> Me:
    """Sign a browser in, by a cookie that holds the access token until the browser is closed.

    What a page does by that cookie must come from a page of the same origin.
    """
    if "origin" in request.headers:
        check_same_origin(request)
    by = await gate.signed_in(body.access_token, request)
    set_cookie(response, body.access_token)
    return await _me(by, services)


@_open.delete("/session", status_code=204, operation_id="sign_out", responses=problems(403))
async def sign_out(_: Nothing, request: Request, response: Response) -> None:
    """Sign a browser out: it forgets the access token, which stays in force."""
    if "origin" in request.headers:
        check_same_origin(request)
    clear_cookie(response)


@_open.get("/openapi.json", operation_id="get_openapi", tags=["deployment"])
async def get_openapi(_: Nothing, request: Request) -> dict[str, Any]:
    """Return this document."""
    document: dict[str, Any] = request.app.openapi()
    return document


async def _me(by: Actor, services: Management) -> Me:
    if isinstance(by.who, Operator):
        return Me.operator()
    return Me.person(await services.owners.get_user(by, by.who.name))
