"""Who asks: an operator, or the person whose access token a request carries.

A token comes as `Authorization: Bearer`, or, from a browser, in a cookie that no script can read. The cookie alone is not
enough to change anything: the browser must say that it was a page of this very origin which asked.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from keytoll.core.permissions import Actor, Operator, Person
from keytoll.core.secrets import KEY_PREFIX, TOKEN_PREFIX, digest_of, is_well_formed
from keytoll.http.guesses import Guesses, TooManyFailures, WrongToken
from keytoll.metrics import Metrics

COOKIE = "__Host-keytoll"
"""The prefix has browsers keep it to this host alone, whatever its neighbours in the domain do."""

SOURCE_HEADER = "x-kt-source"
"""In which Envoy says where a request comes from; no client can set it."""

OPERATOR_SOURCE = "operator.sock"

NOT_IN_FORCE = "This access token does not exist, or was reset or revoked"

_SAFE = ("GET", "HEAD", "OPTIONS")


class Unauthenticated(Exception):
    """Nobody is known to have sent this. The message is safe to show."""


class CrossSite(Exception):
    """A page of another origin had a browser send this."""


class Gate(Protocol):
    """Says who asks."""

    async def actor(self, request: Request) -> Actor:
        """Return who has sent a request. Raises Unauthenticated, TooManyFailures and CrossSite."""

    async def signed_in(self, token: str, request: Request) -> Actor:
        """Return whose access token it is. Raises Unauthenticated and TooManyFailures."""


class Tokens:
    """Finds people by their access tokens; their roles are as of now, each time."""

    def __init__(
        self, authenticate: Callable[[bytes], Awaitable[Person | None]], *, guesses: Guesses, metrics: Metrics
    ) -> None:
        self._authenticate = authenticate
        self._guesses = guesses
        self._metrics = metrics

    async def actor(self, token: str, *, source: str) -> Actor:
        """Return whose token it is. Raises Unauthenticated and TooManyFailures."""
        try:
            person = await self._person(token, source)
        except WrongToken:
            self._metrics.sign_ins.labels("refused").inc()
            raise Unauthenticated(NOT_IN_FORCE) from None
        except TooManyFailures:
            self._metrics.sign_ins.labels("limited").inc()
            raise
        self._metrics.sign_ins.labels("accepted").inc()
        return Actor(person, source, digest_of(token))

    async def _person(self, token: str, source: str) -> Person:
        digest = digest_of(token) if is_well_formed(TOKEN_PREFIX, token) else None
        with self._guesses.attempt(source, digest):
            person = None if digest is None else await self._authenticate(digest)
            if person is None:
                raise WrongToken
        return person


class OperatorGate:
    """Of the operator's socket: whoever reaches it has full rights."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def actor(self, _: Request) -> Actor:
        """Return an operator."""
        return Actor(Operator(), OPERATOR_SOURCE)

    async def signed_in(self, token: str, _: Request) -> Actor:
        """Return whose access token it is."""
        return await self._tokens.actor(token, source=OPERATOR_SOURCE)


class TokenGate:
    """Of the socket behind Envoy: each request needs an access token."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def actor(self, request: Request) -> Actor:
        """Return the person whose token the request carries."""
        return await self.signed_in(_token_of(request), request)

    async def signed_in(self, token: str, request: Request) -> Actor:
        """Return whose access token it is."""
        source = request.headers.get(SOURCE_HEADER) or "api.sock"
        return await self._tokens.actor(token, source=source)


def set_cookie(response: Response, token: str) -> None:
    """Have the browser keep the token, until it is closed, where no script can read it."""
    response.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="strict")


def clear_cookie(response: Response) -> None:
    """Have the browser forget the token."""
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")


def check_same_origin(request: Request) -> None:
    """Raise CrossSite for a change that a browser does not say to come from a page of this origin."""
    if request.method in _SAFE:
        return
    if request.headers.get("origin") != f"{_scheme(request)}://{request.headers.get('host', '')}":
        raise CrossSite
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise CrossSite


def _token_of(request: Request) -> str:
    given = request.headers.getlist("authorization")
    if not given and COOKIE in request.cookies:
        check_same_origin(request)
        return request.cookies[COOKIE]
    if len(given) != 1:
        raise Unauthenticated("No access token; send one as Authorization: Bearer gw-at-…")
    scheme, _, token = given[0].partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Send the access token as Authorization: Bearer gw-at-…")
    return _checked(token.strip())


def _checked(token: str) -> str:
    if token.startswith(KEY_PREFIX):
        raise Unauthenticated("This is an API key, which only calls models; here an access token is needed (gw-at-…)")
    return token


def _scheme(request: Request) -> str:
    # Envoy sets it at every request: a client's own is believed only of a proxy that Envoy was told to trust.
    return request.headers.get("x-forwarded-proto", request.url.scheme)
