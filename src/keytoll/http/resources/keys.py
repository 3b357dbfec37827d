"""Keys: of an owner, and of everybody."""

import json
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from keytoll.core.expiry import format_timestamp
from keytoll.http.contract.common import instant
from keytoll.http.contract.keys import (
    CreatedKey,
    EditPreviewOut,
    EditQuery,
    KeyIn,
    KeyOut,
    KeyPage,
    KeyPatch,
    KeysQuery,
    RotateIn,
)
from keytoll.http.errors import not_everywhere
from keytoll.http.guard import GuardedRoute
from keytoll.http.resources.common import (
    EVERYBODY,
    NOT_EVERYWHERE,
    ONCE_PARAMETER,
    ORGANIZATION,
    USER,
    Answers,
    By,
    Deployment,
    Nothing,
    Once,
    Scope,
    Services,
    problems,
)
from keytoll.management import Asked, EditPreview, Keys, NotEverywhere
from keytoll.store.base import StoredKey

_EditQuery = Annotated[EditQuery, Query()]
_Rotate = Annotated[RotateIn, Body(default_factory=RotateIn)]
_KeyId = Annotated[str, Path(description="The id of a key", examples=["key_0193a5c0d2a07e6f8b1c2d3e4f506172"])]
_DOES_ONCE = {"parameters": [ONCE_PARAMETER]}
_REPEATED: Answers = {
    200: {"model": KeyOut, "description": "It was done before, under this `Idempotency-Key`: the key, no secret"}
}
_ONCE_PROBLEMS = problems(404, 409, 413, 422)


def _creation(scope: Scope) -> APIRouter:
    router = APIRouter(prefix=f"{scope.path}/keys", route_class=GuardedRoute, tags=["keys"])
    Owner = Annotated[str, Depends(scope.owner)]  # noqa: N806 - a type

    @router.post(
        "",
        status_code=201,
        response_model=CreatedKey,
        operation_id=f"create_{scope.word}key",
        responses=_REPEATED | _ONCE_PROBLEMS,
        openapi_extra=_DOES_ONCE,
    )
    async def create_key(
        body: KeyIn, _: Nothing, owner: Owner, once: Once, by: By, services: Services
    ) -> CreatedKey | Response:
        """Create a key; the answer alone holds its secret.

        A repeat under the same `Idempotency-Key` answers 200, without the secret.
        """
        stored, secret = await services.keys.create(
            by,
            owner=owner,
            name=body.name,
            quota=body.quota.to_core(),
            expires_at_us=instant("expires_at", body.expires_at),
            access=body.access(),
            asked=_asked(once, body),
        )
        key = _key_out(stored, services.keys, secret)
        return key if isinstance(key, CreatedKey) else JSONResponse(key.model_dump(mode="json"))

    return router


def _listing(scope: Scope) -> APIRouter:
    router = APIRouter(prefix=f"{scope.path}/keys", route_class=GuardedRoute, tags=["keys"])
    Owner = Annotated[str | None, Depends(scope.owner)]  # noqa: N806

    @router.get("", operation_id=f"list_{scope.word}keys", responses=problems(404))
    async def list_keys(query: Annotated[KeysQuery, Query()], owner: Owner, by: By, services: Services) -> KeyPage:
        """List keys, masked; in the order of their creation unless it is asked for another one."""
        page = await services.keys.list(by, query.to_core(owner))
        return KeyPage(data=[_key_out(stored, services.keys) for stored in page.data], next=page.next)

    return router


def _single(scope: Scope) -> APIRouter:
    """Return the routes of one key: of an owner, beside which others' keys are not found, or of anyone."""
    router = APIRouter(prefix=f"{scope.path}/keys/{{key_id}}", route_class=GuardedRoute, tags=["keys"])
    Owner = Annotated[str | None, Depends(scope.owner)]  # noqa: N806

    @router.get("", operation_id=f"get_{scope.word}key", responses=problems(404))
    async def get_key(key_id: _KeyId, _: Nothing, owner: Owner, by: By, services: Services) -> KeyOut:
        """Show a key."""
        return _key_out(await services.keys.get(by, key_id, owner=owner), services.keys)

    @router.patch(
        "",
        operation_id=f"edit_{scope.word}key",
        response_model=KeyOut | EditPreviewOut,
        responses=NOT_EVERYWHERE | problems(404, 409, 413),
    )
    async def edit_key(
        key_id: _KeyId, body: KeyPatch, query: _EditQuery, owner: Owner, by: By, services: Services, about: Deployment
    ) -> KeyOut | EditPreviewOut | Response:
        """Change a key; in force when answered. A dry run changes nothing, and tells what the edit would do."""
        changes = body.to_core()
        if query.dry_run:
            preview = await services.keys.preview_edit(by, key_id, changes, currency=about.currency, owner=owner)
            return _preview_out(preview, services.keys)
        try:
            return _key_out(await services.keys.edit(by, key_id, changes, owner=owner), services.keys)
        except NotEverywhere as partly:
            return not_everywhere(partly, _key_out(partly.made, services.keys))

    @router.delete(
        "", status_code=204, operation_id=f"delete_{scope.word}key", responses=NOT_EVERYWHERE | problems(404)
    )
    async def delete_key(key_id: _KeyId, _: Nothing, owner: Owner, by: By, services: Services) -> None:
        """Delete a key; in force when answered. Requests that are already running finish and are charged."""
        await services.keys.delete(by, key_id, owner=owner)

    @router.post(
        "/rotate",
        operation_id=f"rotate_{scope.word}key",
        response_model=CreatedKey | KeyOut,
        responses=NOT_EVERYWHERE | _ONCE_PROBLEMS,
        openapi_extra=_DOES_ONCE,
    )
    async def rotate_key(
        key_id: _KeyId,
        _: Nothing,
        owner: Owner,
        once: Once,
        by: By,
        services: Services,
        body: _Rotate,
    ) -> CreatedKey | KeyOut | Response:
        """Give a key another secret, which the answer alone holds; in force when answered.

        The answer to a repeat under the same `Idempotency-Key` is without the secret.
        """
        try:
            stored, secret = await services.keys.rotate(
                by,
                key_id,
                old_valid_until_us=instant("old_valid_until", body.old_valid_until),
                owner=owner,
                asked=_asked(once, body),
            )
        except NotEverywhere as partly:
            stored, secret = partly.made
            return not_everywhere(partly, _key_out(stored, services.keys, secret))
        return _key_out(stored, services.keys, secret)

    return router


ROUTERS = (
    *(_creation(scope) for scope in (USER, ORGANIZATION)),
    *(_listing(scope) for scope in (USER, ORGANIZATION, EVERYBODY)),
    *(_single(scope) for scope in (USER, ORGANIZATION, EVERYBODY)),
)


def _preview_out(preview: EditPreview, keys: Keys) -> EditPreviewOut:
    return EditPreviewOut(
        before=_key_out(preview.before, keys),
        after=_key_out(preview.after, keys),
        effects=list(preview.effects),
        from_=format_timestamp(preview.from_us),
    )


def _asked(once: str | None, body: BaseModel) -> Asked | None:
    if once is None:
        return None
    return Asked(once, json.dumps(body.model_dump(exclude_unset=True), sort_keys=True))


def _key_out(stored: StoredKey, keys: Keys, secret: str | None = None) -> CreatedKey | KeyOut:
    key = KeyOut.of(stored, keys.standing(stored))
    return key if secret is None else CreatedKey(**key.model_dump(), secret=secret)
