"""What the operator of gateways is told about a key, and their backend's books."""

import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
from e2e.conftest import until
from prometheus_client.parser import text_string_to_metric_families

from load.backend import Served, served_by
from load.books import Evidence, nano
from load.calls import Outcome

_PAGE = 1000


class Told(ABC):
    """`log` are the backend's books."""

    log: Path

    @abstractmethod
    def operator(self) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        """Give a client of the operator API."""

    def served(self) -> list[Served]:
        """Return what the backend answered."""
        return served_by(self.log)

    async def rows(self, key: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return every row of a key."""
        return await self._all("/charges", key_id=key["id"])

    async def unsettled(self, key: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the key's decisions that are listed as unsettled."""
        return [row for row in await self._all("/unsettled") if row["key_id"] == key["id"]]

    async def used_nano(self, key: Mapping[str, Any]) -> int:
        """Return what a key has spent by its running total."""
        async with self.operator() as operator:
            found = (await operator.get(f"/api/v1/keys/{key['id']}")).raise_for_status().json()
        return nano(found["used"])

    async def until_settled(self, key: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        """Return the key's rows and unsettled decisions, once there are as many."""

        async def ask() -> tuple[list[dict[str, Any]]] | None:
            found = await self.rows(key) + await self.unsettled(key)
            return (found,) if len(found) >= number else None

        return (await until(ask))[0]

    async def evidence(self, key: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Evidence:
        """Return all that is known of a key's requests by now."""
        return Evidence(outcomes, self.served(), await self.rows(key), await self.unsettled(key))

    async def _all(self, path: str, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with self.operator() as operator:
            while True:
                page = {"limit": str(_PAGE), **query, **({"after": found[-1]["id"]} if found else {})}
                answer = (await operator.get(f"/api/v1{path}", params=page)).raise_for_status().json()
                found += answer["data"]
                if answer["next"] is None:
                    return found


async def metric_at(url: str, name: str) -> float:
    """Return the sum of a metric's samples."""
    # A context of our own: to load every trusted authority each time would hold up the load.
    async with httpx.AsyncClient(trust_env=False, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
        text = (await client.get(url)).raise_for_status().text
    families = text_string_to_metric_families(text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)
