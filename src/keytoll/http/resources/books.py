"""The ledger: charges, decisions that were never settled, and usage."""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from keytoll.http.contract.charges import (
    ArchivedOut,
    ArchiveIn,
    ChargeDetail,
    ChargeOut,
    ChargePage,
    ChargesQuery,
    OwnersChargesQuery,
    UnsettledOut,
    UnsettledPage,
    UnsettledQuery,
)
from keytoll.http.contract.common import About
from keytoll.http.contract.usage import OwnersUsageQuery, UsageOut, UsageQuery
from keytoll.http.guard import GuardedRoute
from keytoll.http.resources.common import (
    ORGANIZATION,
    ROOT,
    USER,
    Answers,
    By,
    Deployment,
    Nothing,
    Scope,
    Services,
    problems,
)
from keytoll.http.tables import CSV, charges_csv
from keytoll.store.base import ChargeQuery

_AS_CSV: Answers = {
    200: {
        "content": {CSV: {"schema": {"type": "string"}}},
        "headers": {
            "Link": {
                "description": 'Of CSV: the page that follows, as `rel="next"`; none on the last',
                "schema": {"type": "string"},
                "required": False,
            }
        },
    }
}
_ledger = APIRouter(prefix=ROOT, route_class=GuardedRoute, tags=["charges"])


def _charges(scope: Scope) -> APIRouter:
    """Return the route that lists the charges of an owner."""
    router = APIRouter(prefix=scope.path, route_class=GuardedRoute, tags=["charges"])
    Owner = Annotated[str, Depends(scope.owner)]  # noqa: N806 - a type

    @router.get(
        "/charges",
        operation_id=f"list_{scope.word}charges",
        response_model=ChargePage,
        responses=_AS_CSV | problems(404),
    )
    async def list_owners_charges(
        query: Annotated[OwnersChargesQuery, Query()],
        owner: Owner,
        by: By,
        services: Services,
        about: Deployment,
        request: Request,
    ) -> ChargePage | Response:
        """List an owner's charges, newest admission first; as JSON or CSV."""
        return await _page(query, query.to_core(owner), by, services, about, request)

    return router


def _usage(scope: Scope) -> APIRouter:
    """Return the route that sums what an owner used."""
    router = APIRouter(prefix=scope.path, route_class=GuardedRoute, tags=["usage"])
    Owner = Annotated[str, Depends(scope.owner)]  # noqa: N806

    @router.get(
        "/usage",
        operation_id=f"get_{scope.word}usage",
        response_model_exclude_unset=True,
        responses=problems(404),
    )
    async def get_owners_usage(
        query: Annotated[OwnersUsageQuery, Query()], owner: Owner, by: By, services: Services, about: Deployment
    ) -> UsageOut:
        """Sum what an owner used and spent, by day, key or model, or any of them together."""
        return await _sums(query, owner, by, services, about)

    return router


@_ledger.get("/charges", operation_id="list_charges", response_model=ChargePage, responses=_AS_CSV | problems(404))
async def list_charges(
    query: Annotated[ChargesQuery, Query()], by: By, services: Services, about: Deployment, request: Request
) -> ChargePage | Response:
    """List the charges of everybody, or of one owner, newest admission first; as JSON or CSV. For operators."""
    return await _page(query, query.to_core(query.owner), by, services, about, request)


@_ledger.post("/charge-archives", operation_id="archive_charges", responses=problems(400, 413))
async def archive_charges(body: ArchiveIn, _: Nothing, by: By, services: Services) -> ArchivedOut:
    """Move old charges out of the ledger into an archive beside the store; no total changes. For operators."""
    return ArchivedOut.of(await services.books.archive(by, before=body.before))


@_ledger.get("/charges/{charge_id}", operation_id="explain_charge", responses=problems(404))
async def explain_charge(
    charge_id: Annotated[str, Path(description="The id of a row", examples=["chg_0193a5c0d2a07e6f8b1c2d3e4f506172"])],
    _: Nothing,
    by: By,
    services: Services,
    about: Deployment,
) -> ChargeDetail:
    """Show a row of the ledger, of any kind, with its sum line by line."""
    return ChargeDetail.explained(await services.books.explain_charge(by, charge_id), currency=about.currency)


@_ledger.get("/unsettled", operation_id="list_unsettled")
async def list_unsettled(query: Annotated[UnsettledQuery, Query()], by: By, services: Services) -> UnsettledPage:
    """List the decisions whose log entry never came, newest admission first. For operators."""
    page = await services.books.list_unsettled(
        by, after=query.after, limit=query.limit, settled_later=query.settled_later
    )
    return UnsettledPage(data=[UnsettledOut.of(unsettled) for unsettled in page.data], next=page.next)


@_ledger.get("/usage", operation_id="get_usage", response_model_exclude_unset=True, tags=["usage"])
async def get_usage(query: Annotated[UsageQuery, Query()], by: By, services: Services, about: Deployment) -> UsageOut:
    """Sum what everybody used and spent, by owner, day, key or model, or any of them together. For operators."""
    return await _sums(query, None, by, services, about)


ROUTERS = (
    *(_charges(scope) for scope in (USER, ORGANIZATION)),
    *(_usage(scope) for scope in (USER, ORGANIZATION)),
    _ledger,
)


async def _sums(query: OwnersUsageQuery, owner: str | None, by: By, services: Services, about: About) -> UsageOut:
    groups = query.groups()
    report = await services.books.usage(by, owner=owner, since=query.since, until=query.until, group_by=groups)
    return UsageOut.of(report, about)


async def _page(
    asked: OwnersChargesQuery, query: ChargeQuery, by: By, services: Services, about: About, request: Request
) -> ChargePage | Response:
    page = await services.books.list_charges(by, query)
    charges = [ChargeOut.of(item.charge, key_name=item.key_name, currency=about.currency) for item in page.data]
    if asked.format == "csv" or (asked.format is None and _wants_csv(request)):
        return _csv(charges, request, page.next)
    return ChargePage(data=charges, next=page.next)


def _wants_csv(request: Request) -> bool:
    accept = request.headers.get("accept", "").lower()
    return CSV in accept and "application/json" not in accept


def _csv(charges: Sequence[ChargeOut], request: Request, following: str | None) -> Response:
    headers = {"content-disposition": 'attachment; filename="charges.csv"', "vary": "accept"}
    if following is not None:
        query = urlencode({**request.query_params, "after": following})
        headers["link"] = f'<{request.url.path}?{query}>; rel="next"'
    return Response(charges_csv(charges), headers={**headers, "content-type": f"{CSV}; charset=utf-8"})
