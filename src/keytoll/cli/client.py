"""The management API, over the UNIX socket of the Keytoll that runs here, or over HTTP with an access token."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import typer

from keytoll.cli.failure import Failure
from keytoll.cli.output import exactly
from keytoll.cli.place import Local, Place, Remote, find_place
from keytoll.core.owners import check_owner
from keytoll.settings import Settings
from keytoll.sockets import short_path

if TYPE_CHECKING:
    import httpx

_TIMEOUT_S = 30
_PAGE = 1000
_API = "/api/v1"

Query = Mapping[str, str | int | None]


def connected(server: str | None, run_dir: Path | None) -> "Client":
    """Return a client of the Keytoll that the options, the environment or a sign-in name."""
    return Client(find_place(server=server, run_dir=run_dir, environment=os.environ))


class Client:
    """Calls the API; a context manager. Methods return decoded JSON and raise Failure."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._http = stack.enter_context(_opened(self.place, stack))
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @cached_property
    def about(self) -> Mapping[str, str]:
        """What is to be known of the deployment to show its times and amounts."""
        found: Mapping[str, str] = self.call("GET", "/about")
        return found

    @cached_property
    def me(self) -> Mapping[str, Any]:
        """Who asks."""
        found: Mapping[str, Any] = self.call("GET", "/me")
        return found

    def path(self, owner: str | None, what: str) -> str:
        """Return the path of what an owner has: by default of oneself, or for an operator of all. Raises InvalidValue."""
        if owner is not None:
            return f"/{check_owner(owner)}{what}"
        return what if isinstance(self.place, Local) else f"/{self.me['owner']}{what}"

    def owner(self, owner: str | None) -> str:
        """Return an owner, by default oneself; an operator must name one. Raises InvalidValue."""
        if owner is not None:
            return check_owner(owner)
        if isinstance(self.place, Local):
            raise typer.BadParameter(
                "An operator must say whose: users/NAME or organizations/NAME.", param_hint="OWNER"
            )
        return str(self.me["owner"])

    def call(self, method: str, path: str, body: object = None, *, query: Query | None = None) -> Any:
        """Make one call. Returns None for an answer without content."""
        answer = self._answer(method, path, body, query=query)
        return answer.json() if answer.content else None

    def items(self, path: str, query: Query, *, limit: int = 0) -> Iterator[dict[str, Any]]:
        """Iterate over a list, page by page, up to `limit` items; 0 for all."""
        return islice(self._items(path, dict(query), limit), limit or None)

    def csv(self, path: str, query: Query) -> Iterator[str]:
        """Iterate over the text of a list as CSV, page by page; the line of names comes once."""
        asked = {**query, "format": "csv", "limit": _PAGE}
        answer = self._answer("GET", path, query=asked)
        yield answer.text
        while following := answer.links.get("next"):
            asked["after"] = parse_qs(urlsplit(following["url"]).query)["after"][0]
            answer = self._answer("GET", path, query=asked)
            yield answer.text.partition("\n")[2]

    def _items(self, path: str, query: dict[str, str | int | None], limit: int) -> Iterator[dict[str, Any]]:
        query["limit"] = min(limit or _PAGE, _PAGE)
        while True:
            page = self.call("GET", path, query=query)
            yield from page["data"]
            if page["next"] is None:
                return
            query["after"] = page["next"]

    def _answer(self, method: str, path: str, body: object = None, *, query: Query | None = None) -> "httpx.Response":
        import httpx

        given = {name: value for name, value in (query or {}).items() if value is not None}
        options: dict[str, Any] = {} if body is None else {"json": body}
        try:
            answer = self._http.request(method, path, params=given, **options)
        except httpx.TransportError as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise Failure(f"Keytoll at {self.place.address} did not answer: {cause}") from error
        if answer.is_success:
            if answer.status_code == HTTPStatus.ACCEPTED:
                self._warn(answer.json())
            return answer
        raise Failure(_message(answer.status_code, answer.text) + _advice(answer.status_code, self.place))

    def _warn(self, made: Mapping[str, Any]) -> None:
        """Say of a change that it isn't in force everywhere yet."""
        for each in made["not_yet"]:
            until = exactly(each["until"], self.about)
            line = f"Not confirmed by the replica {each['replica']}: it may go by the state before until {until}."
            typer.echo(line, err=True)


def key_path(key_id: str) -> str:
    """Return the path of a key."""
    return f"/keys/{quote(key_id, safe='')}"


def charge_path(charge_id: str) -> str:
    """Return the path of a row of the ledger."""
    return f"/charges/{quote(charge_id, safe='')}"


def _opened(place: Place, stack: ExitStack) -> "httpx.Client":
    return _over_socket(place, stack) if isinstance(place, Local) else _over_tcp(place)


def _over_socket(place: Local, stack: ExitStack) -> "httpx.Client":
    import httpx

    # No TLS on this socket: verify=False only spares loading the system's certificates. And no proxy from the
    # environment, which would be asked in the socket's stead.
    address = _address(Settings(run_dir=place.run_dir).operator_socket, stack)
    transport = httpx.HTTPTransport(uds=address, verify=False)
    return httpx.Client(transport=transport, base_url=f"http://keytoll{_API}", timeout=_TIMEOUT_S, trust_env=False)


def _over_tcp(place: Remote) -> "httpx.Client":
    import ssl

    import httpx

    # Python's default context trusts what the system trusts, or SSL_CERT_FILE; httpx's own would trust a list of its own.
    # What is plain is on this machine: to a proxy, the token would go in the clear.
    return httpx.Client(
        base_url=place.server + _API,
        headers={"authorization": f"Bearer {place.token}"},
        verify=False if place.is_plain else ssl.create_default_context(),
        trust_env=not place.is_plain,
        timeout=_TIMEOUT_S,
    )


def _address(path: Path, stack: ExitStack) -> str:
    try:
        address = stack.enter_context(short_path(path))
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(address)
    except PermissionError:
        line = f"no permission to use {path}: only root and the user that Keytoll runs as may"
        raise Failure(line) from None
    except OSError:
        line = f"Keytoll is not running at {path}; start it with `keytoll serve`"
        raise Failure(line) from None
    return address


def _message(status: int, text: str) -> str:
    import json

    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"Keytoll answered with HTTP status {status}"


def _advice(status: int, place: Place) -> str:
    if status != 401 or isinstance(place, Local):
        return ""
    return f" To sign in anew, run `keytoll login --server {place.server}`."
