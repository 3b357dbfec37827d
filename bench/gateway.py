"""The complete gateway: Envoy with envoy.yaml, Keytoll on SQLite, and the backend that takes a constant time."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench import books, envoys
from bench.load import MODEL
from bench.processes import PROJECT, envoy, running
from keytoll.demo.part import Part
from keytoll.demo.ports import Ports
from keytoll.demo.stack import rendered_envoy_yaml

PATIENCE_S = 120.0
_CATALOG = f"""
currency: CNY
billing_time_zone: Asia/Shanghai
models:
  {MODEL}:
    context_length: 100000
    maximum_output: 8192
    price: {{input: 1, output: 7}}
    backends: [{{url: "http://127.0.0.1:PORT/v1", allow_local: true}}]
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Its processes, and where callers reach it with `books.secret_of(0)`."""

    port: int
    envoy: Part
    keytoll: Part
    run_dir: Path

    def settled(self) -> int:
        """Return how many rows the ledger has."""
        return books.charges_in(self.run_dir / "keytoll.db")

    async def until_settled(self, rows: int) -> None:
        """Return once the ledger has as many rows, and no more come. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            before = -1
            while (now := self.settled()) < rows or now > before:
                before = now
                await asyncio.sleep(0.3)


@asynccontextmanager
async def gateway(folder: Path, *, backend_port: int) -> AsyncIterator[Gateway]:
    """Start it before the backend on `backend_port`."""
    ports, run_dir = Ports.free(), folder / "run"
    run_dir.mkdir()
    await books.fill(run_dir / "keytoll.db", keys=1000, known=1)
    async with AsyncExitStack() as stack:
        keytoll = await stack.enter_async_context(keytoll_serve(run_dir, ports.metrics, backend_port))
        text = rendered_envoy_yaml((PROJECT / "envoy.yaml").read_text(encoding="utf-8"), ports)
        proxy = await stack.enter_async_context(envoy("envoy", text, folder=run_dir))
        yield Gateway(ports.data, proxy, keytoll, run_dir)


@asynccontextmanager
async def backend(folder: Path, port: int, *, reads_first: bool = False) -> AsyncIterator[Part]:
    """Start the backend."""
    async with envoy("backend", envoys.backend(port, reads_first=reads_first), folder=folder) as part:
        yield part


@asynccontextmanager
async def keytoll_serve(run_dir: Path, metrics_port: int, backend_port: int) -> AsyncIterator[Part]:
    """Run Keytoll in a run folder, from its being ready on."""
    catalog = run_dir / "catalog.yaml"
    catalog.write_text(_CATALOG.replace("PORT", str(backend_port)))
    environment = {
        "RUN_DIR": str(run_dir),
        "CATALOG": str(catalog),
        "METRICS_PORT": str(metrics_port),
        "KEYTOLL_LOG_LEVEL": "warning",
    }
    command = (str(Path(sys.executable).with_name("keytoll")), "serve")

    async def ready() -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=5, verify=False) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{metrics_port}/readyz")).is_success
            except httpx.TransportError:
                return False

    async with running("keytoll", command, folder=run_dir, ready=ready, environment=environment) as part:
        yield part


async def seconds_to_ready(run_dir: Path, metrics_port: int, backend_port: int) -> float:
    """Start Keytoll, stop it, and return how long it took to be ready."""
    started_s = time.perf_counter()
    async with keytoll_serve(run_dir, metrics_port, backend_port):
        return time.perf_counter() - started_s
