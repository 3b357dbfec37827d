"""The whole gateway with the backend that keeps books, and what its operator can know of it."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from e2e.conftest import Gateway, until
from e2e.scripted import ScriptedBackend
from prometheus_client.parser import text_string_to_metric_families

from keytoll.demo.part import Part, Program
from keytoll.demo.ports import Ports
from keytoll.demo.stack import Stack, StackSettings
from load.backend import Served, served_by
from load.books import Evidence, nano
from load.calls import Outcome

_PAGE = 1000
_TESTS = Path(__file__).parents[1]
_CATALOG = """
currency: CNY
billing_time_zone: Asia/Shanghai
models:
  counted:
    context_length: 10000000
    template_tokens: 1000000
    price: {input: 1, output: 7}
    running_usage: true
    backends: [{url: "http://127.0.0.1:PORT/v1", allow_local: true}]
  exact:
    context_length: 1000000
    template_tokens: 0
    price: {input: 0, output: 1000}
    running_usage: true
    backends: [{url: "http://127.0.0.1:PORT/v1", allow_local: true}]
"""
"""Of `counted` each request holds another amount, so that a hold tells which request it was. Of `exact` a request costs
what it holds if it makes as many tokens as it may."""


@dataclass
class CountedGateway(Gateway):
    """A gateway whose backend's books are in `log`."""

    log: Path

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
        async with self.stack.operator() as operator:
            found = (await operator.get(f"/api/v1/keys/{key['id']}")).raise_for_status().json()
        return nano(found["used"])

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        # A context of our own: to load every trusted authority each time would hold up the load.
        async with httpx.AsyncClient(trust_env=False, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
            text = (await client.get(self.stack.metrics_url)).raise_for_status().text
        families = text_string_to_metric_families(text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    async def until_metric(self, name: str, wanted: Callable[[float], bool]) -> float:
        """Return a metric once it is as wanted."""

        async def ask() -> tuple[float] | None:
            value = await self.metric(name)
            return (value,) if wanted(value) else None

        return (await until(ask))[0]

    async def until_settled(self, key: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        """Return the key's rows and unsettled decisions, once there are as many."""

        async def ask() -> tuple[list[dict[str, Any]]] | None:
            found = await self.rows(key) + await self.unsettled(key)
            return (found,) if len(found) >= number else None

        return (await until(ask))[0]

    async def until_told(self, key: Mapping[str, Any], outcomes: Iterable[Outcome]) -> None:
        """Return once each answer has a row, of whatever kind, and nothing is held."""
        numbers = {outcome.ask.number for outcome in outcomes}

        async def told() -> bool:
            answered = sum(each.number in numbers for each in self.served())
            rows = len(await self.rows(key)) + len(await self.unsettled(key))
            return rows >= answered and await self.metric("keytoll_holds") == 0

        await until(told)

    async def restart_envoy(self) -> None:
        """Restart it in good order: then it is certain of every request before that it is over, and logged or lost."""
        await self.stack.envoy.stop()
        await self.stack.envoy.start()

    async def evidence(self, key: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Evidence:
        """Return all that is known of a key's requests by now."""
        return Evidence(outcomes, self.served(), await self.rows(key), await self.unsettled(key))

    async def _all(self, path: str, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with self.stack.operator() as operator:
            while True:
                page = {"limit": str(_PAGE), **query, **({"after": found[-1]["id"]} if found else {})}
                answer = (await operator.get(f"/api/v1{path}", params=page)).raise_for_status().json()
                found += answer["data"]
                if answer["next"] is None:
                    return found


@asynccontextmanager
async def counted_gateway(
    folder: Path,
    *,
    envoy_yaml: Callable[[str], str] = lambda text: text,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[Path], None] = lambda _: None,
) -> AsyncIterator[CountedGateway]:
    """Start it in an empty folder; `prepare` may do something to its run folder before."""
    async with _backend(folder) as (port, log):
        catalog, run_dir = folder / "keytoll.yaml", folder / "run"
        catalog.write_text(_CATALOG.replace("PORT", str(port)))
        run_dir.mkdir(mode=0o700)
        prepare(run_dir)
        settings = StackSettings(
            run_dir=run_dir,
            ports=Ports.free(),
            catalog=catalog,
            envoy_yaml=envoy_yaml,
            environment={"KEYTOLL_LOG_LEVEL": "warning", **(environment or {})},
        )
        async with Stack(settings) as stack:
            yield CountedGateway(stack, ScriptedBackend(), log)


@asynccontextmanager
async def _backend(folder: Path) -> AsyncIterator[tuple[int, Path]]:
    port, log = Ports.free().backend, folder / "served.jsonl"
    log.touch()
    nothing = os.open(os.devnull, os.O_RDONLY)
    program = Program(
        name="counting backend",
        command=(sys.executable, "-m", "load.backend", str(port), str(log)),
        cwd=folder,
        log=folder / "backend.log",
        kept_fd=nothing,
        ready=lambda: _listens(port),
        environment={"PYTHONPATH": os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))},
    )
    part = Part(program)
    try:
        await part.start()
        yield port, log
    finally:
        await part.stop()
        os.close(nothing)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
