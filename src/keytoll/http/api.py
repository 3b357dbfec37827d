"""The management API: REST under `/api/v1`."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request

from keytoll.core.expiry import format_timestamp
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
    UnsettledOut,
    UnsettledPage,
    UnsettledQuery,
    instant,
)
from keytoll.http.errors import add_error_handlers
from keytoll.http.guard import Guard, StrictRoute
from keytoll.management import Management
from keytoll.store.base import StoredKey

__all__ = ["About", "create_api"]

T = TypeVar("T")


def create_api(management: Management, *, about: About) -> FastAPI:
    """Return the app. Whoever reaches it has full rights: it is served to operators only."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.management = management
    app.state.about = about
    app.include_router(_router)
    app.add_middleware(Guard)
    add_error_handlers(app)
    return app


async def _management(request: Request) -> Management:
    management: Management = request.app.state.management
    return management


async def _about(request: Request) -> About:
    about: About = request.app.state.about
    return about


_Management = Annotated[Management, Depends(_management)]
_About = Annotated[About, Depends(_about)]
_NoQuery = Annotated[NoQuery, Query()]
_KeysQuery = Annotated[KeysQuery, Query()]
_router = APIRouter(prefix="/api/v1", route_class=StrictRoute)


@_router.get("/about")
async def get_about(about: _About) -> About:
    """Tell the version, the currency and the billing time zone."""
    return about


@_router.post("/users/{name}/keys", status_code=201)
async def create_user_key(name: str, body: KeyIn, _: _NoQuery, management: _Management) -> CreatedKey:
    """Create a key of a user; the answer alone holds its secret."""
    return await _create(f"users/{name}", body, management)


@_router.get("/users/{name}/keys")
async def list_user_keys(name: str, query: _KeysQuery, management: _Management) -> KeyPage:
    """List a user's keys."""
    return await _list(f"users/{name}", query, management)


@_router.post("/organizations/{name}/keys", status_code=201)
async def create_organization_key(name: str, body: KeyIn, _: _NoQuery, management: _Management) -> CreatedKey:
    """Create a key of an organization; the answer alone holds its secret."""
    return await _create(f"organizations/{name}", body, management)


@_router.get("/organizations/{name}/keys")
async def list_organization_keys(name: str, query: _KeysQuery, management: _Management) -> KeyPage:
    """List an organization's keys."""
    return await _list(f"organizations/{name}", query, management)


@_router.get("/keys")
async def list_all_keys(query: _KeysQuery, management: _Management) -> KeyPage:
    """List the keys of all owners."""
    return await _list(None, query, management)


@_router.get("/keys/{key_id}")
async def get_key(key_id: str, management: _Management) -> KeyOut:
    """Show a key."""
    return _key_out(await management.get_key(key_id), management)


@_router.patch("/keys/{key_id}")
async def edit_key(
    key_id: str, body: KeyPatch, query: Annotated[EditQuery, Query()], management: _Management, about: _About
) -> KeyOut | EditPreviewOut:
    """Change a key; in force when answered. A dry run changes nothing, and tells what the edit would do."""
    if query.dry_run:
        return await _preview(key_id, body, management, about)
    return _key_out(await management.edit_key(key_id, body.to_core()), management)


@_router.delete("/keys/{key_id}", status_code=204)
async def delete_key(key_id: str, _: _NoQuery, management: _Management) -> None:
    """Delete a key; in force when answered. Requests that are already running finish and are charged."""
    await management.delete_key(key_id)


@_router.get("/charges")
async def list_charges(query: Annotated[ChargesQuery, Query()], management: _Management, about: _About) -> ChargePage:
    """List charges, newest admission first."""
    page, following = _page(await management.list_charges(query.to_core()), query.limit)
    return ChargePage(
        data=[ChargeOut.of(charge, currency=about.currency) for charge in page],
        next=page[-1].id if following else None,
    )


@_router.get("/charges/{charge_id}")
async def explain_charge(charge_id: str, management: _Management, about: _About) -> ChargeDetail:
    """Show a row of the ledger, of any kind, with its sum line by line."""
    return ChargeDetail.explained(await management.explain_charge(charge_id), currency=about.currency)


@_router.get("/unsettled")
async def list_unsettled(query: Annotated[UnsettledQuery, Query()], management: _Management) -> UnsettledPage:
    """List the decisions whose log entry never came, newest admission first."""
    found = await management.list_unsettled(after=query.after, limit=query.limit + 1, settled_later=query.settled_later)
    page, following = _page(found, query.limit)
    return UnsettledPage(
        data=[UnsettledOut.of(unsettled) for unsettled in page], next=page[-1].charge.id if following else None
    )


async def _preview(key_id: str, body: KeyPatch, management: Management, about: About) -> EditPreviewOut:
    preview = await management.preview_edit(key_id, body.to_core(), currency=about.currency)
    return EditPreviewOut(
        before=_key_out(preview.before, management),
        after=_key_out(preview.after, management),
        effects=list(preview.effects),
        from_=format_timestamp(preview.from_us),
    )


async def _create(owner: str, body: KeyIn, management: Management) -> CreatedKey:
    stored, secret = await management.create_key(
        owner=owner,
        name=body.name,
        quota=body.quota.to_core(),
        expires_at_us=instant("expires_at", body.expires_at),
    )
    return CreatedKey(**_key_out(stored, management).model_dump(), secret=secret)


async def _list(owner: str | None, query: KeysQuery, management: Management) -> KeyPage:
    found = await management.list_keys(owner=owner, after=query.after, limit=query.limit + 1)
    page, following = _page(found, query.limit)
    return KeyPage(data=[_key_out(stored, management) for stored in page], next=page[-1].key.id if following else None)


def _page(found: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    return found[:limit], len(found) > limit


def _key_out(stored: StoredKey, management: Management) -> KeyOut:
    return KeyOut.of(stored, used_nano=management.used_nano(stored))
