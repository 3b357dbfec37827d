"""A replica: a Keytoll with a run folder and a private folder of its own, and before it its Envoy."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from deploy.pod import container
from load.told import metric_at

from keytoll.demo.part import Part, Program
from keytoll.demo.ports import Ports
from keytoll.demo.stack import PROJECT, rendered_envoy_yaml
from keytoll.envoy.clusters import find_envoy
from keytoll.sockets import short_path
from replicas.links import Link

_TESTS = Path(__file__).parents[1]
_BIN = Path(sys.executable).parent
_PATIENCE_S = 90.0
_ANSWER_S = 60.0
"""More than a change may take that waits for other replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a replica lives, and how. Its clock is wrong by `clock_off_s`; `environment` is added to Keytoll's.

    Envoy writes its journal each `flush_ms`.
    """

    folder: Path
    catalog: Path
    store: str
    link: Link
    clock_off_s: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    flush_ms: int = 100


class Replica:
    """Its two processes, `keytoll` and `envoy`, can be ended and started one by one; the folders outlive them."""

    def __init__(self, place: Place, *, kept_fd: int) -> None:
        self.place = place
        self.link = place.link
        self.ports = Ports.free()
        self.run_dir, self.private_dir = place.folder / "run", place.folder / "private"
        self.run_dir.mkdir(mode=0o700, parents=True)
        text = rendered_envoy_yaml((PROJECT / "envoy.yaml").read_text(encoding="utf-8"), self.ports)
        (self.run_dir / "envoy.yaml").write_text(text, encoding="utf-8")
        self.keytoll = Part(self._keytoll(kept_fd))
        self.envoy = Part(self._envoy(kept_fd))

    @property
    def name(self) -> str:
        return self.place.folder.name

    @property
    def url(self) -> str:
        """Where callers reach it."""
        return f"http://127.0.0.1:{self.ports.data}"

    async def start(self) -> None:
        """Start both, and return once callers are served."""
        await self.keytoll.start()
        await self.envoy.start()

    async def end(self) -> None:
        """End it as its pod ends: the preStop hook, then Envoy, then Keytoll. Raises AssertionError if the hook fails."""
        hook = container("envoy")["lifecycle"]["preStop"]["exec"]["command"]
        process = await asyncio.create_subprocess_exec(
            *(str(_BIN / hook[0]), *hook[1:]), env=os.environ | self._environment(), stderr=asyncio.subprocess.PIPE
        )
        _, told = await process.communicate()
        assert process.returncode == 0, told.decode()
        await self.stop()

    async def stop(self) -> None:
        """Stop Envoy, then Keytoll, which settles all that is in the journal."""
        await self.envoy.stop()
        await self.keytoll.stop()

    def freeze(self) -> None:
        """Stop Keytoll where it is."""
        os.kill(self.keytoll.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let Keytoll go on."""
        os.kill(self.keytoll.pid, signal.SIGCONT)

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        return await metric_at(f"http://127.0.0.1:{self.ports.metrics}/metrics", name)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client of its operator API."""
        async with _client(self.private_dir / "operator.sock") as client:
            yield client

    def _environment(self) -> dict[str, str]:
        own = {
            "RUN_DIR": str(self.run_dir),
            "KEYTOLL_PRIVATE_DIR": str(self.private_dir),
            "CATALOG": str(self.place.catalog),
            "METRICS_PORT": str(self.ports.metrics),
            "KEYTOLL_STORE": self.place.store,
            "KEYTOLL_LOG_LEVEL": "warning",
            "KEYTOLL_DRAIN_NOTICE_S": "0.5",
            "PYTHONPATH": str(_TESTS),
        }
        return own | dict(self.place.environment)

    def _keytoll(self, kept_fd: int) -> Program:
        off_s = self.place.clock_off_s
        wrong = (sys.executable, "-m", "replicas.clock", str(off_s))
        return Program(
            name="keytoll",
            command=(*(wrong if off_s else (str(_BIN / "keytoll"),)), "serve"),
            cwd=self.place.folder,
            log=self.place.folder / "keytoll.log",
            kept_fd=kept_fd,
            ready=self._keytoll_ready,
            environment=self._environment(),
            start_timeout_s=_PATIENCE_S,
            stop_timeout_s=30.0,
        )

    async def _keytoll_ready(self) -> bool:
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=2) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{self.ports.metrics}/readyz")).is_success
            except httpx.TransportError:
                return False

    def _envoy(self, kept_fd: int) -> Program:
        options = ("--concurrency", "1", "--log-level", "error", "--disable-hot-restart")
        journal = ("--file-flush-interval-msec", str(self.place.flush_ms), "--reject-unknown-dynamic-fields")
        return Program(
            name="envoy",
            command=(str(find_envoy().absolute()), "-c", "envoy.yaml", *options, *journal),
            cwd=self.run_dir,
            log=self.place.folder / "envoy.log",
            kept_fd=kept_fd,
            ready=self._envoy_ready,
            start_timeout_s=_PATIENCE_S,
        )

    async def _envoy_ready(self) -> bool:
        async with _client(self.run_dir / "admin.sock") as client:
            try:
                return (await client.get("/ready")).is_success
            except httpx.TransportError:
                return False


@asynccontextmanager
async def _client(socket: Path) -> AsyncIterator[httpx.AsyncClient]:
    with short_path(socket) as path:
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=_ANSWER_S) as client:
            yield client
