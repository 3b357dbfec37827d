"""The management API: REST under `/api/v1`."""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request, Response
from pydantic import BaseModel

from keytoll.core.errors import InvalidValue
from keytoll.core.expiry import format_timestamp
from keytoll.core.permissions import Actor, Operator
from keytoll.http.contract import (
    About,
    ChargeDetail,
    ChargeOut,
    ChargePage,
    ChargesQuery,
    CreatedKey,
    EditPreviewOut,
    EditQuery,
    KeyIn,
    KeyOut,
    KeyPage,
    KeyPatch,
    KeysQuery,
    NoQuery,
    RotateIn,
    UnsettledOut,
    UnsettledPage,
    UnsettledQuery,
    instant,
)
from keytoll.http.errors import ONCE_HEADER, add_error_handlers
from keytoll.http.guard import Guard, StrictRoute
from keytoll.management import Asked, EditPreview, Management
from keytoll.store.base import KeyQuery, StoredKey

__all__ = ["About", "create_api"]

_OPERATOR = Actor(Operator(), "operator.sock")


def create_api(management: Management, *, about: About) -> FastAPI:
    """Return the app. Whoever reaches it has full rights: it is served to operators only."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.management = management
    app.state.about = about
    for router in _routers:
        app.include_router(router)
    app.add_middleware(Guard)
    add_error_handlers(app)
    return app


async def _management(request: Request) -> Management:
    management: Management = request.app.state.management
    return management


async def _about(request: Request) -> About:
    about: About = request.app.state.about
    return about


_ONCE = re.compile(r"[!-~]{1,255}", re.ASCII)


async def _once(request: Request) -> str | None:
    given = request.headers.getlist(ONCE_HEADER)
    if not given:
        return None
    if len(given) > 1 or _ONCE.fullmatch(given[0]) is None:
        raise InvalidValue(ONCE_HEADER, "must be given once, and have 1 to 255 letters, digits and signs, no spaces")
    return given[0]


_Management = Annotated[Management, Depends(_management)]
_About = Annotated[About, Depends(_about)]
_NoQuery = Annotated[NoQuery, Query()]
_EditQuery = Annotated[EditQuery, Query()]
_Once = Annotated[str | None, Depends(_once)]
_Rotate = Annotated[RotateIn, Body(default_factory=RotateIn)]
_KeysQuery = Annotated[KeysQuery, Query()]
_router = APIRouter(prefix="/api/v1", route_class=StrictRoute)


@_router.get("/about")
async def get_about(about: _About) -> About:
    """Tell the version, the currency and the billing time zone."""
    return about


@_router.get("/keys")
async def list_all_keys(query: _KeysQuery, management: _Management) -> KeyPage:
    """List the keys of all owners."""
    return await _list(None, query, management)


async def _anyone() -> None:
    return None


async def _user(name: str) -> str:
    return f"users/{name}"


async def _organization(name: str) -> str:
    return f"organizations/{name}"


def _keys_of(owner: Callable[..., Awaitable[str]], prefix: str) -> APIRouter:
    """Return the routes of an owner's keys."""
    router = APIRouter(prefix=prefix, route_class=StrictRoute)
    owned = Annotated[str, Depends(owner)]

    @router.post("", status_code=201)
    async def create_key(
        body: KeyIn, _: _NoQuery, owner: owned, once: _Once, management: _Management, response: Response
    ) -> CreatedKey | KeyOut:
        """Create a key; the answer alone holds its secret. A repeat under the same id answers 200, without the secret."""
        stored, secret = await management.keys.create(
            _OPERATOR,
            owner=owner,
            name=body.name,
            quota=body.quota.to_core(),
            expires_at_us=instant("expires_at", body.expires_at),
            access=body.access(),
            asked=_asked(once, body),
        )
        return _with_secret(stored, secret, management, response)

    @router.get("")
    async def list_keys(query: _KeysQuery, owner: owned, management: _Management) -> KeyPage:
        """List an owner's keys."""
        return await _list(owner, query, management)

    return router


def _key_of(owner: Callable[..., Awaitable[str | None]], prefix: str) -> APIRouter:
    """Return the routes of one key: of an owner, beside which others' keys are not found, or of anyone."""
    router = APIRouter(prefix=f"{prefix}/{{key_id}}", route_class=StrictRoute)
    owned = Annotated[str | None, Depends(owner)]

    @router.get("")
    async def get_key(key_id: str, owner: owned, management: _Management) -> KeyOut:
        """Show a key."""
        return _key_out(await management.keys.get(_OPERATOR, key_id, owner=owner), management)

    @router.patch("")
    async def edit_key(
        key_id: str, body: KeyPatch, query: _EditQuery, owner: owned, management: _Management, about: _About
    ) -> KeyOut | EditPreviewOut:
        """Change a key; in force when answered. A dry run changes nothing, and tells what the edit would do."""
        changes = body.to_core()
        if query.dry_run:
            preview = await management.keys.preview_edit(
                _OPERATOR, key_id, changes, currency=about.currency, owner=owner
            )
            return _preview_out(preview, management)
        return _key_out(await management.keys.edit(_OPERATOR, key_id, changes, owner=owner), management)

    @router.delete("", status_code=204)
    async def delete_key(key_id: str, _: _NoQuery, owner: owned, management: _Management) -> None:
        """Delete a key; in force when answered. Requests that are already running finish and are charged."""
        await management.keys.delete(_OPERATOR, key_id, owner=owner)

    @router.post("/rotate")
    async def rotate_key(
        key_id: str, _: _NoQuery, owner: owned, once: _Once, management: _Management, response: Response, body: _Rotate
    ) -> CreatedKey | KeyOut:
        """Give a key another secret, which the answer alone holds; in force when answered."""
        until_us = instant("old_valid_until", body.old_valid_until)
        asked = _asked(once, body)
        stored, secret = await management.keys.rotate(
            _OPERATOR, key_id, old_valid_until_us=until_us, owner=owner, asked=asked
        )
        return _with_secret(stored, secret, management, response)

    return router


_USERS, _ORGANIZATIONS = (f"/api/v1/{kind}/{{name}}/keys" for kind in ("users", "organizations"))
_routers = (
    _router,
    _key_of(_anyone, "/api/v1/keys"),
    _keys_of(_user, _USERS),
    _key_of(_user, _USERS),
    _keys_of(_organization, _ORGANIZATIONS),
    _key_of(_organization, _ORGANIZATIONS),
)


@_router.get("/charges")
async def list_charges(query: Annotated[ChargesQuery, Query()], management: _Management, about: _About) -> ChargePage:
    """List charges, newest admission first."""
    page = await management.books.list_charges(_OPERATOR, query.to_core())
    data = [ChargeOut.of(listed.charge, currency=about.currency) for listed in page.data]
    return ChargePage(data=data, next=page.next)


@_router.get("/charges/{charge_id}")
async def explain_charge(charge_id: str, management: _Management, about: _About) -> ChargeDetail:
    """Show a row of the ledger, of any kind, with its sum line by line."""
    return ChargeDetail.explained(await management.books.explain_charge(_OPERATOR, charge_id), currency=about.currency)


@_router.get("/unsettled")
async def list_unsettled(query: Annotated[UnsettledQuery, Query()], management: _Management) -> UnsettledPage:
    """List the decisions whose log entry never came, newest admission first."""
    page = await management.books.list_unsettled(
        _OPERATOR, after=query.after, limit=query.limit, settled_later=query.settled_later
    )
    return UnsettledPage(data=[UnsettledOut.of(unsettled) for unsettled in page.data], next=page.next)


def _preview_out(preview: EditPreview, management: Management) -> EditPreviewOut:
    return EditPreviewOut(
        before=_key_out(preview.before, management),
        after=_key_out(preview.after, management),
        effects=list(preview.effects),
        from_=format_timestamp(preview.from_us),
    )


def _asked(once: str | None, body: BaseModel) -> Asked | None:
    if once is None:
        return None
    return Asked(once, json.dumps(body.model_dump(exclude_unset=True), sort_keys=True))


def _with_secret(
    stored: StoredKey, secret: str | None, management: Management, response: Response
) -> CreatedKey | KeyOut:
    key = _key_out(stored, management)
    if secret is None:
        response.status_code = 200
        return key
    return CreatedKey(**key.model_dump(), secret=secret)


async def _list(owner: str | None, query: KeysQuery, management: Management) -> KeyPage:
    page = await management.keys.list(_OPERATOR, KeyQuery(owner=owner, after=query.after, limit=query.limit))
    return KeyPage(data=[_key_out(stored, management) for stored in page.data], next=page.next)


def _key_out(stored: StoredKey, management: Management) -> KeyOut:
    return KeyOut.of(stored, management.keys.standing(stored))
