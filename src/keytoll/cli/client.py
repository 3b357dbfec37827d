"""The operator's API, over the UNIX socket of the Keytoll that runs."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from keytoll.settings import Settings
from keytoll.sockets import short_path

_TIMEOUT_S = 30
_PAGE = 1000


class Failure(Exception):
    """A command can't do what it should. The message is one line for whoever called it."""


class OperatorClient:
    """Calls the API; a context manager. Methods return decoded JSON and raise Failure."""

    def __init__(self, run_dir: Path) -> None:
        self._path = Settings(run_dir=run_dir).operator_socket

    def __enter__(self) -> Self:
        import httpx

        with ExitStack() as stack:
            # No TLS on this socket: verify=False only spares loading the system's certificates. And no proxy from the
            # environment, which would be asked in the socket's stead.
            transport = httpx.HTTPTransport(uds=self._address(stack), verify=False)
            client = httpx.Client(
                transport=transport, base_url="http://keytoll/api/v1", timeout=_TIMEOUT_S, trust_env=False
            )
            self._client = stack.enter_context(client)
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def call(self, method: str, path: str, body: object = None, *, query: Mapping[str, str | int] | None = None) -> Any:
        """Make one call. Returns None for an answer without content."""
        import httpx

        options: dict[str, Any] = {} if body is None else {"json": body}
        try:
            answer = self._client.request(method, path, params=dict(query or {}), **options)
        except httpx.TransportError as error:
            raise Failure(f"Keytoll at {self._path} did not answer: {error or type(error).__name__}") from error
        if answer.is_success:
            return answer.json() if answer.content else None
        raise Failure(_message(answer.status_code, answer.text))

    def items(self, path: str, query: Mapping[str, str | None], *, limit: int = 0) -> Iterator[dict[str, Any]]:
        """Iterate over a list, page by page, up to `limit` items; 0 for all."""
        everything = self._items(path, {name: value for name, value in query.items() if value is not None}, limit)
        return islice(everything, limit or None)

    def _items(self, path: str, query: dict[str, str | int], limit: int) -> Iterator[dict[str, Any]]:
        query["limit"] = min(limit or _PAGE, _PAGE)
        while True:
            page = self.call("GET", path, query=query)
            yield from page["data"]
            if page["next"] is None:
                return
            query["after"] = page["next"]

    def _address(self, stack: ExitStack) -> str:
        try:
            address = stack.enter_context(short_path(self._path))
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address)
        except PermissionError:
            line = f"no permission to use {self._path}: only root and the user that Keytoll runs as may"
            raise Failure(line) from None
        except OSError:
            line = f"Keytoll is not running at {self._path}; start it with `keytoll serve`"
            raise Failure(line) from None
        return address


def key_path(key_id: str) -> str:
    """Return the path of a key."""
    return f"/keys/{quote(key_id, safe='')}"


def charge_path(charge_id: str) -> str:
    """Return the path of a row of the ledger."""
    return f"/charges/{quote(charge_id, safe='')}"


def _message(status: int, text: str) -> str:
    import json

    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"Keytoll answered with HTTP status {status}"
