"""Envoy's admin interface over its UNIX socket: only what Keytoll asks of it."""

import ssl
from pathlib import Path
from typing import Self

import httpx

_TIMEOUT_S = 2.0
_CDS_STATS = r"^cluster_manager\.(cds\.version_text|warming_clusters)$"


class AdminUnavailable(Exception):
    """Envoy's admin socket doesn't answer: it is away, starting or stopping. The cause is chained."""


class Admin:
    """A client of the admin socket at `socket`; close it, or use it as a context manager."""

    def __init__(self, socket: Path) -> None:
        # A context of our own: the default one loads every trusted authority, for a socket that never speaks TLS.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=context)
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://envoy", timeout=_TIMEOUT_S, trust_env=False
        )

    async def cds_version(self) -> str | None:
        """Return the version of the last CDS file that Envoy took, None before the first. Raises AdminUnavailable."""
        version = (await self._cds_stats()).get("cluster_manager.cds.version_text")
        return str(version) if version else None

    async def warming_clusters(self) -> int:
        """Return how many clusters Envoy has taken but doesn't use yet: their names are being resolved."""
        warming = (await self._cds_stats()).get("cluster_manager.warming_clusters", 0)
        return int(warming)

    async def reopen_logs(self) -> None:
        """Make Envoy open its access logs anew, after one was renamed. Raises AdminUnavailable."""
        await self._request("POST", "/reopen_logs")

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _cds_stats(self) -> dict[str, str | int]:
        response = await self._request("GET", "/stats", format="json", filter=_CDS_STATS)
        return {stat["name"]: stat["value"] for stat in response.json()["stats"] if "name" in stat}

    async def _request(self, method: str, path: str, **params: str) -> httpx.Response:
        try:
            response = await self._client.request(method, path, params=params)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise AdminUnavailable(f"Envoy's admin socket doesn't answer: {error!r}") from error
        return response
