"""What the routes have in common: what they are served with, whose things a path is about, and what is documented."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from keytoll.core.errors import InvalidValue
from keytoll.core.owners import organization_owner, user_owner
from keytoll.core.permissions import Actor
from keytoll.http.contract.common import About, NoQuery, NotEverywhereOut
from keytoll.http.contract.errors import Problem
from keytoll.http.errors import ONCE_HEADER
from keytoll.http.guard import actor_of
from keytoll.http.sign_in import Gate
from keytoll.management import Management

ROOT = "/api/v1"

_ONCE = re.compile(r"[!-~]{1,255}", re.ASCII)
_PROBLEMS = {
    400: "Something of the request is not acceptable; `param` names it",
    401: "There is no access token in force",
    403: "Whoever asks may look, but not do this",
    404: "There is no such thing, or not for whoever asks",
    409: "It can't be done as things stand; `code` says why",
    413: "The body is too large",
    422: "Something else was asked for under this `Idempotency-Key`",
    429: "Too many attempts with wrong access tokens came from this address",
    500: "Something went wrong inside Keytoll",
    503: "The store is not available at the moment",
}


async def _services(request: Request) -> Management:
    services: Management = request.app.state.management
    return services


async def _about(request: Request) -> About:
    about: About = request.app.state.about
    return about


async def _gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate


async def _once(request: Request) -> str | None:
    given = request.headers.getlist(ONCE_HEADER)
    if not given:
        return None
    if len(given) > 1 or _ONCE.fullmatch(given[0]) is None:
        raise InvalidValue(ONCE_HEADER, "must be given once, and have 1 to 255 letters, digits and signs, no spaces")
    return given[0]


By = Annotated[Actor, Depends(actor_of)]
Services = Annotated[Management, Depends(_services)]
Deployment = Annotated[About, Depends(_about)]
TheGate = Annotated[Gate, Depends(_gate)]
Once = Annotated[str | None, Depends(_once)]
Nothing = Annotated[NoQuery, Query()]
UserName = Annotated[str, Path(description="The NAME of `users/NAME`", examples=["alice"])]
OrganizationName = Annotated[str, Path(description="The NAME of `organizations/NAME`", examples=["acme"])]

ONCE_PARAMETER: dict[str, Any] = {
    "name": ONCE_HEADER,
    "in": "header",
    "required": False,
    "description": "An id of the caller's. A repeat of the same under the same id, within 24 hours, is not done twice",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "example": "b9a4d4b2-3a3c-4a52-a8b6-7f5b0d2f4a11",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose things the routes below a path are about: one owner's, or everybody's, which is None."""

    path: str
    word: str
    owner: Callable[..., Awaitable[str | None]]


async def _user(user: UserName) -> str:
    return user_owner(user)


async def _organization(organization: OrganizationName) -> str:
    return organization_owner(organization)


async def _everybody() -> None:
    return None


USER = Scope(f"{ROOT}/users/{{user}}", "user_", _user)
ORGANIZATION = Scope(f"{ROOT}/organizations/{{organization}}", "organization_", _organization)
EVERYBODY = Scope(ROOT, "", _everybody)


Answers = dict[int | str, dict[str, Any]]
"""What a route is documented to answer, by status."""


NOT_EVERYWHERE: Answers = {
    202: {
        "model": NotEverywhereOut,
        "description": "It is done, but the replicas in `not_yet` have not confirmed it within the deadline: each may admit"
        " requests by the state before, `until` then at most. Beside it is what the answer holds else",
    }
}


def problems(*statuses: int) -> Answers:
    """Return what a route is documented to answer beside its success."""
    return {status: {"model": Problem, "description": _PROBLEMS[status]} for status in sorted(statuses)}
