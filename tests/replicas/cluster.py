"""Some replicas on one PostgreSQL server, before one backend that keeps books."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any

import httpx
from e2e.conftest import until
from load.gateway import CATALOG, counting_backend
from load.told import Told
from postgres_server import PostgresServer, postgres_server

from replicas.links import links_to
from replicas.replica import Place, Replica

CLOCKS_OFF_S = (0.0, 5.0, -5.0)
_numbers = count(10_000_000)
_blocks = count(10_000, 20_000)
_names = count(1)


def new_number() -> int:
    """Return a number that no request to `exact` had before."""
    return next(_numbers)


def new_numbers() -> int:
    """Return the first of 20,000 numbers that no request to `counted` had before. They are below what each holds."""
    return next(_blocks)


@dataclass(frozen=True, slots=True)
class Cluster(Told):
    """What callers and operators do to them all."""

    replicas: Sequence[Replica]
    postgres: PostgresServer
    log: Path

    @property
    def urls(self) -> Sequence[str]:
        return [replica.url for replica in self.replicas]

    def operator(self) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        """Give a client of the first replica's operator API."""
        return self.replicas[0].operator()

    async def new_key(self, owner: str = "users/alice", **fields: Any) -> dict[str, Any]:
        """Create a key; the answer holds its `secret`."""
        async with self.operator() as operator:
            answer = await operator.post(f"/api/v1/{owner}/keys", json={"name": f"key {next(_names)}", **fields})
        assert answer.status_code == 201, answer.text
        key: dict[str, Any] = answer.json()
        return key

    def answered(self, wanted: Iterable[int]) -> list[int]:
        """Return which of these requests the backend answered, each as often as it did."""
        known = set(wanted)
        return [each.number for each in self.served() if each.number in known]

    async def until_nothing_is_held(self) -> None:
        """Return once no replica holds anything for a request."""

        async def free() -> bool:
            return not any([await replica.metric("keytoll_holds") for replica in self.replicas])

        await until(free)

    async def restart_envoys(self) -> None:
        """Restart them in good order: then it is certain of every request before that it is over, and logged or lost."""
        for replica in self.replicas:
            await replica.envoy.stop()
        for replica in self.replicas:
            await replica.envoy.start()


@asynccontextmanager
async def cluster_in(
    folder: Path,
    size: int,
    *,
    clocks_off_s: Sequence[float] = (),
    environment: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
    flush_ms: int = 100,
) -> AsyncIterator[Cluster]:
    """Start a server and so many replicas in an empty folder, the first so many of them with clocks that are off.

    `environment` is every Keytoll's, `settings` are the server's; each Envoy writes its journal every `flush_ms`.
    """
    async with AsyncExitStack() as stack:
        server = stack.enter_context(postgres_server(settings))
        port, log = await stack.enter_async_context(counting_backend(folder))
        catalog = folder / "keytoll.yaml"
        catalog.write_text(CATALOG.replace("PORT", str(port)).replace("Asia/Shanghai", _zone_of_noon()))
        kept_fd = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, kept_fd)
        database = (await server.new_database()).rpartition("/")[2]
        off_s = islice((*clocks_off_s, *(0.0 for _ in range(size))), size)
        links = stack.enter_context(links_to(server.port, size))
        replicas = [
            Replica(
                Place(
                    folder=folder / f"replica-{number}",
                    catalog=catalog,
                    store=server.url(database, port=link.port),
                    link=link,
                    clock_off_s=seconds,
                    environment=environment or {},
                    flush_ms=flush_ms,
                ),
                kept_fd=kept_fd,
            )
            for number, (link, seconds) in enumerate(zip(links, off_s, strict=True))
        ]
        stack.push_async_callback(_all, replicas, Replica.stop)
        await _all(replicas, Replica.start)
        yield Cluster(replicas, server, log)


async def _all(replicas: Sequence[Replica], act: Callable[[Replica], Any]) -> None:
    await asyncio.gather(*(act(replica) for replica in replicas))


def _zone_of_noon() -> str:
    """Return a zone where it is about noon: no month may end while clocks that are off go about a monthly quota."""
    behind = datetime.now(UTC).hour - 12
    return f"Etc/GMT{behind:+d}" if behind else "Etc/UTC"
