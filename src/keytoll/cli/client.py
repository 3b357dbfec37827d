"""The operator's API, over the UNIX socket of the Keytoll that runs."""

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
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        import httpx

        try:
            address = self._resources.enter_context(short_path(self._path))
        except OSError:
            raise self._not_running() from None
        # No TLS on this socket: verify=False only spares loading the system's certificates. And no proxy from the
        # environment, which would be asked in the socket's stead.
        transport = httpx.HTTPTransport(uds=address, verify=False)
        client = httpx.Client(
            transport=transport, base_url="http://keytoll/api/v1", timeout=_TIMEOUT_S, trust_env=False
        )
        self._client = self._resources.enter_context(client)
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
            raise self._unshort_path(error) from error
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

    def _not_running(self) -> Failure:
        return Failure(f"Keytoll is not running at {self._path}; start it with `keytoll serve`")

    def _unshort_path(self, error: Exception) -> Failure:
        import httpx

        if "Permission denied" in str(error):
            return Failure(f"no permission to use {self._path}: only root and the user that Keytoll runs as may")
        if isinstance(error, httpx.ConnectError):
            return self._not_running()
        return Failure(f"Keytoll at {self._path} did not answer: {error}")


def key_path(key_id: str) -> str:
    """Return the path of a key."""
    return f"/keys/{quote(key_id, safe='')}"


def _message(status: int, text: str) -> str:
    import json

    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"Keytoll answered with HTTP status {status}"
