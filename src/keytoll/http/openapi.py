"""The OpenAPI document: FastAPI's, with what it can't know, and without what isn't so."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from keytoll.http.examples import EXAMPLES
from keytoll.http.guard import GuardedRoute
from keytoll.http.resources.common import problems
from keytoll.http.sign_in import COOKIE

_DESCRIPTION = """\
API keys, what they used and what it cost. Amounts are decimal strings in the deployment's one currency, times are
RFC 3339 in UTC. Lists come in pages: `next` of one is the `after` of the following. What is not known is refused: a
field of a body as well as a parameter of a query.
"""
_TAGS = {
    "keys": "API keys, which call models. A key belongs to a person or an organization",
    "usage": "Sums of what was used and spent",
    "charges": "The ledger, row by row",
    "people": "People, and their access tokens",
    "organizations": "Organizations, and who belongs to them",
    "audit": "Who changed what",
    "session": "Who asks, and browsers' sessions",
    "deployment": "What clients must know of this Keytoll",
}
_SECURITY = {
    "access_token": {"type": "http", "scheme": "bearer", "description": "A person's access token, `gw-at-…`"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "Of a browser that is signed in. Changes must come from a page of the same origin",
    },
}
_SUCCESSES = {
    ("200", "Successful Response"): "What was asked for",
    ("201", "Successful Response"): "It was made",
    ("204", "Successful Response"): "It is done",
}
_SECONDS = {"description": "After how many seconds to try again", "schema": {"type": "integer"}}
_HEADERS = {
    "401": {"WWW-Authenticate": {"description": "Always `Bearer`", "schema": {"type": "string"}}},
    "429": {"Retry-After": _SECONDS},
    "503": {"Retry-After": _SECONDS},
}
_ALWAYS = (400, 500, 503)
_GUARDED = (401, 403, 429)


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the document of an app's routes."""
    document = get_openapi(
        title="Keytoll",
        version=app.state.about.version,
        openapi_version="3.1.0",
        description=_DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        servers=[{"url": "/"}],
    )
    document["components"]["securitySchemes"] = _SECURITY
    for route, operation in _operations(app, document):
        _complete(route, operation)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for name, example in EXAMPLES.items():
        schemas[name]["examples"] = [example]
    return document


def _operations(app: FastAPI, document: dict[str, Any]) -> Iterator[tuple[APIRoute, dict[str, Any]]]:
    for route in app.routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                yield route, document["paths"][route.path_format][method.lower()]


def _complete(route: APIRoute, operation: dict[str, Any]) -> None:
    guarded = isinstance(route, GuardedRoute)
    operation["summary"] = (route.description or "").split("\n", 1)[0].split(". ", 1)[0].removesuffix(".")
    operation["security"] = [{name: []} for name in _SECURITY] if guarded else []
    answers = operation["responses"]
    if 422 not in route.responses:
        answers.pop("422", None)  # FastAPI's own, which is a 400 here
    for status, answer in problems(*_ALWAYS, *(_GUARDED if guarded else ())).items():
        answers.setdefault(str(status), _problem(str(answer["description"])))
    for status, answer in answers.items():
        answer["description"] = _SUCCESSES.get((status, answer["description"]), answer["description"])
        if status in _HEADERS:
            answer.setdefault("headers", {}).update(_HEADERS[status])
    operation["responses"] = dict(sorted(answers.items()))


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
