"""The whole gateway with the backend that keeps books, and what its operator can know of it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from e2e.conftest import Gateway, until
from e2e.scripted import ScriptedBackend

from keytoll.demo.part import Part, Program
from keytoll.demo.ports import Ports
from keytoll.demo.stack import Stack, StackSettings
from load.calls import Outcome
from load.told import Told, metric_at

_TESTS = Path(__file__).parents[1]
CATALOG = """
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
"""PORT stands for the backend's. Of `counted` each request holds another amount, so that a hold tells which request it was. Of `exact` a request costs
what it holds if it makes as many tokens as it may."""


@dataclass
class CountedGateway(Gateway, Told):
    """A gateway whose backend's books are in `log`."""

    log: Path

    def operator(self) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        """Give a client of the operator API."""
        return self.stack.operator()

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        return await metric_at(self.stack.metrics_url, name)

    async def until_metric(self, name: str, wanted: Callable[[float], bool]) -> float:
        """Return a metric once it is as wanted."""

        async def ask() -> tuple[float] | None:
            value = await self.metric(name)
            return (value,) if wanted(value) else None

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


@asynccontextmanager
async def counted_gateway(
    folder: Path,
    *,
    envoy_yaml: Callable[[str], str] = lambda text: text,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[Path], None] = lambda _: None,
) -> AsyncIterator[CountedGateway]:
    """Start it in an empty folder; `prepare` may do something to its run folder before."""
    async with counting_backend(folder) as (port, log):
        catalog, run_dir = folder / "keytoll.yaml", folder / "run"
        catalog.write_text(CATALOG.replace("PORT", str(port)))
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
async def counting_backend(folder: Path) -> AsyncIterator[tuple[int, Path]]:
    """Run the backend; give its port, and its books."""
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
