"""Envoy's admin interface over its UNIX socket: only what Keytoll asks of it."""

import os
import re
import ssl
from pathlib import Path
from typing import Any, Self

import httpx

_TIMEOUT_S = 2.0
_CDS_STATS = r"^cluster_manager\.(cds\.version_text|warming_clusters)$"
_RUNNING = r"^http\..+\.downstream_rq_active$"
_WRITE_FAILED = "filesystem.write_failed"


class AdminUnavailable(Exception):
    """Envoy's admin socket doesn't answer: it is away, starting or stopping. The cause is chained."""


class AdminRefused(AdminUnavailable):
    """The socket's file is there, and nobody listens on it: its Envoy is gone. A frozen one would time out instead."""


class Admin:
    """A client of the admin socket at `socket`, whose folder must be there; close it, or use it as a context manager."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        # A context of our own: the default one loads every trusted authority, for a socket that never speaks TLS.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # By way of its folder, since a socket's address has room for 107 bytes only.
        self._folder = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        transport = httpx.AsyncHTTPTransport(uds=f"/proc/self/fd/{self._folder}/{socket.name}", verify=context)
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://envoy", timeout=_TIMEOUT_S, trust_env=False
        )

    async def cds_version(self) -> str | None:
        """Return the version of the last CDS file that Envoy took, None before the first. Raises AdminUnavailable."""
        version = (await self._stats(_CDS_STATS)).get("cluster_manager.cds.version_text")
        return str(version) if version else None

    async def warming_clusters(self) -> int:
        """Return how many clusters Envoy has taken but doesn't use yet: their names are being resolved."""
        warming = (await self._stats(_CDS_STATS)).get("cluster_manager.warming_clusters", 0)
        return int(warming)

    async def reopen_logs(self) -> None:
        """Make Envoy open its access logs anew, after one was renamed. Raises AdminUnavailable."""
        await self._request("POST", "/reopen_logs")

    async def log_writes_failed(self) -> int:
        """Return in how many writes to its logs Envoy failed since it started: their lines are lost.

        Raises AdminUnavailable.
        """
        return int((await self._stats(f"^{re.escape(_WRITE_FAILED)}$")).get(_WRITE_FAILED, 0))

    async def uptime_s(self) -> int:
        """Return for how long this Envoy has run, in whole seconds of its clock, hot restarts not counted as one.

        It may be off by up to a second either way. Raises AdminUnavailable.
        """
        uptime = (await self._json("/server_info"))["uptime_all_epochs"]
        return int(float(uptime.removesuffix("s")))

    async def fail_health_checks(self) -> None:
        """Make Envoy close each connection after its next answer. Raises AdminUnavailable."""
        await self._request("POST", "/healthcheck/fail")

    async def stop_listening(self) -> None:
        """Make Envoy take no new connection; those that are there go on. Raises AdminUnavailable."""
        await self._request("POST", "/drain_listeners")

    async def requests_running(self) -> int:
        """Return how many requests run on all listeners but this one. Raises AdminUnavailable."""
        stats = await self._stats(_RUNNING)
        return sum(int(value) for name, value in stats.items() if not name.startswith("http.admin."))

    def bound_us(self) -> int | None:
        """Return when this Envoy made the socket's file, in microseconds since the UNIX epoch; None if it can't be told."""
        try:
            return self._socket.stat().st_mtime_ns // 1000
        except OSError:
            return None

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()
        os.close(self._folder)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _stats(self, pattern: str) -> dict[str, str | int]:
        stats = (await self._json("/stats", format="json", filter=pattern))["stats"]
        return {stat["name"]: stat["value"] for stat in stats if "name" in stat}

    async def _json(self, path: str, **params: str) -> Any:
        return (await self._request("GET", path, **params)).json()

    async def _request(self, method: str, path: str, **params: str) -> httpx.Response:
        try:
            response = await self._client.request(method, path, params=params)
            response.raise_for_status()
        except httpx.HTTPError as error:
            kind = AdminRefused if _is_refusal(error) else AdminUnavailable
            raise kind(f"Envoy's admin socket doesn't answer: {error!r}") from error
        return response


def _is_refusal(error: BaseException | None) -> bool:
    """Look through the layers of the client for what the system said."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False
