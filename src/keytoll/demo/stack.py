"""Envoy, Keytoll and the demo backend as one stack, in one run folder: what `make run` starts, and end-to-end tests."""

import asyncio
import contextlib
import fcntl
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx

from keytoll.demo.backend import CREDENTIAL
from keytoll.demo.part import Part, PartFailed, Program
from keytoll.demo.ports import Ports
from keytoll.envoy.clusters import EnvoyNotFound, find_envoy
from keytoll.settings import CannotStart
from keytoll.sockets import short_path

PROJECT = Path(__file__).resolve().parents[3]
_LOCK_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """`envoy_yaml` may change the text of the project's envoy.yaml, whose ports are already those of `ports`.

    `environment` is added to Keytoll's, `token_delay_ms` passes between two events of the backend's streams.
    """

    run_dir: Path
    ports: Ports
    catalog: Path
    envoy_yaml: Callable[[str], str] = lambda text: text
    environment: Mapping[str, str] = field(default_factory=dict)
    token_delay_ms: float = 5.0


class Stack:
    """Use it as a context, or call start() and stop(). Its parts can be stopped, killed and started one by one."""

    def __init__(self, settings: StackSettings) -> None:
        self.settings = settings
        self._lock_fd = -1
        self._parts: list[Part] = []

    @property
    def backend(self) -> Part:
        return self._parts[0]

    @property
    def keytoll(self) -> Part:
        return self._parts[1]

    @property
    def envoy(self) -> Part:
        return self._parts[2]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.ports.data}/v1"

    @property
    def console_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.ports.management}/"

    @property
    def api_url(self) -> str:
        return f"{self.console_url}api/v1"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.ports.metrics}/metrics"

    @property
    def pids(self) -> dict[str, int]:
        return {part.program.name: part.pid for part in self._parts}

    async def start(self) -> None:
        """Raises CannotStart where something stands in the way, PartFailed where a part doesn't start."""
        envoy, keytoll = _tools()
        self._lock_fd = await _claim(self.settings.run_dir)
        self.settings.ports.check_free()
        _prepare(self.settings)
        self._parts = [Part(self._backend()), Part(self._keytoll(keytoll)), Part(self._envoy(envoy))]
        await self.backend.launch()
        await self.keytoll.launch()
        await self.backend.until_ready()
        await self.keytoll.until_ready()  # then the clusters are there, without which Envoy doesn't start
        await self.envoy.start()

    async def failure(self) -> PartFailed:
        """Return once a part has ended, which nobody asked for."""
        waiting = [asyncio.create_task(part.failure()) for part in self._parts]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in waiting:
                task.cancel()

    async def stop(self, *, hurry: asyncio.Event | None = None) -> None:
        """Stop Envoy first, so that Keytoll then settles all that it journalled. `hurry` cuts every wait short."""
        for part in reversed(self._parts):
            await part.stop(hurry=hurry)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of the operator API."""
        async with _client(self.settings.run_dir / "operator.sock") as client:
            yield client

    def _backend(self) -> Program:
        port, delay_ms = self.settings.ports.backend, self.settings.token_delay_ms
        module = ("-m", "keytoll.demo.backend", "--port", str(port), "--token-delay-ms", str(delay_ms))
        return self._program(
            "backend", (sys.executable, *module), ready=lambda: _answers(f"http://127.0.0.1:{port}/healthz")
        )

    def _keytoll(self, console_script: Path) -> Program:
        settings = {
            "RUN_DIR": str(self.settings.run_dir),
            "CATALOG": str(self.settings.catalog),
            "METRICS_PORT": str(self.settings.ports.metrics),
            "KEYTOLL_BASE_URL": self.base_url,
        }
        return self._program(
            "keytoll",
            (str(console_script), "serve"),
            environment=settings | dict(self.settings.environment),
            ready=self._keytoll_ready,
            stop_timeout_s=20.0,  # it settles what is left in the journal
        )

    async def _keytoll_ready(self) -> bool:
        readiness = f"http://127.0.0.1:{self.settings.ports.metrics}/readyz"
        return await self._serves("operator.sock", "/api/v1/about") and await _answers(readiness)

    def _envoy(self, binary: Path) -> Program:
        options = ("--concurrency", "2", "--log-level", "warning", "--disable-hot-restart")
        journal = ("--file-flush-interval-msec", "100", "--reject-unknown-dynamic-fields")
        return self._program(
            "envoy",
            (str(binary), "-c", "envoy.yaml", *options, *journal),
            cwd=self.settings.run_dir,
            ready=self._envoy_ready,
        )

    async def _envoy_ready(self) -> bool:
        ports = self.settings.ports
        return (
            await self._serves("admin.sock", "/ready")
            and await _connects(ports.data)
            and await _connects(ports.management)
        )

    def _program(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        ready: Callable[[], Awaitable[bool]],
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stop_timeout_s: float = 5.0,
    ) -> Program:
        return Program(
            name=name,
            command=command,
            cwd=cwd or Path(),
            log=self.settings.run_dir / f"{name}.log",
            kept_fd=self._lock_fd,
            ready=ready,
            environment=environment or {},
            stop_timeout_s=stop_timeout_s,
        )

    async def _serves(self, socket_name: str, path: str) -> bool:
        socket = self.settings.run_dir / socket_name
        if not socket.exists():
            return False
        async with _client(socket) as client:
            return await _succeeds(client, path)


def rendered_envoy_yaml(text: str, ports: Ports) -> str:
    """Put the ports into the text of envoy.yaml, which is for the default ones. Raises CannotStart."""
    wanted = {f"port_value: {Ports().data}": ports.data, f"port_value: {Ports().management}": ports.management}
    found = re.findall(r"port_value: \d+", text)
    if len(found) != len(set(found)) or not set(found) <= set(wanted) or next(iter(wanted)) not in found:
        raise CannotStart(f"envoy.yaml must listen on {Ports().data}, {Ports().management} or both, once each")
    return re.sub(r"port_value: \d+", lambda match: f"port_value: {wanted[match[0]]}", text)


def write_private(path: Path, text: str) -> None:
    """Put a file there at once, readable by its owner alone."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600, exist_ok=False)
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _tools() -> tuple[Path, Path]:
    """Envoy and Keytoll."""
    keytoll = Path(sys.executable).with_name("keytoll")
    if not keytoll.exists():
        raise CannotStart(f"{keytoll} is missing: install Keytoll there (pip install -e .)")
    if not (PROJECT / "envoy.yaml").exists():
        raise CannotStart(f"{PROJECT / 'envoy.yaml'} is missing: start from a checkout of Keytoll")
    try:
        return find_envoy().absolute(), keytoll
    except EnvoyNotFound as error:
        raise CannotStart(str(error)) from error


async def _claim(run_dir: Path) -> int:
    """Make the run folder and lock it. The parts keep the lock too, so that it is held until the last of them ends."""
    lock_fd = _open_lock(run_dir)
    try:
        async with asyncio.timeout(_LOCK_PATIENCE_S):
            while not _locked(lock_fd):
                _check_holder(run_dir, lock_fd)
                await asyncio.sleep(0.1)
    except TimeoutError:
        os.close(lock_fd)
        raise CannotStart(
            f"{run_dir} is in use by what an earlier stack left running; set RUN_DIR to another"
        ) from None
    except BaseException:
        os.close(lock_fd)
        raise
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, str(os.getpid()).encode(), 0)
    return lock_fd


def _open_lock(run_dir: Path) -> int:
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(run_dir / "stack.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStart(f"can't use {run_dir} as RUN_DIR: {error.strerror}") from error


def _locked(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_holder(run_dir: Path, lock_fd: int) -> None:
    """A launcher that was killed leaves parts that are about to end: wait for those, but not for one that is alive."""
    holder = os.pread(lock_fd, 20, 0).decode()
    if holder and Path(f"/proc/{holder}").exists():
        raise CannotStart(f"{run_dir} is in use by process {holder}: stop that, or set RUN_DIR to another folder")


def _prepare(settings: StackSettings) -> None:
    run_dir = settings.run_dir
    for folder in ("journal", "xds", "credentials", "lua"):
        (run_dir / folder).mkdir(mode=0o700, exist_ok=True)
    for left in (*run_dir.glob("*.sock"), *run_dir.glob("*.log"), run_dir / "demo.json"):
        left.unlink(missing_ok=True)
    write_private(run_dir / "credentials" / "demo", CREDENTIAL)
    text = rendered_envoy_yaml((PROJECT / "envoy.yaml").read_text(encoding="utf-8"), settings.ports)
    write_private(run_dir / "envoy.yaml", settings.envoy_yaml(text))


@contextlib.asynccontextmanager
async def _client(socket: Path) -> AsyncIterator[httpx.AsyncClient]:
    with short_path(socket) as path:
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport, base_url="http://stack", timeout=10) as client:
            yield client


async def _answers(url: str) -> bool:
    # A proxy of the environment has no business on loopback.
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        return await _succeeds(client, url)


async def _succeeds(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).is_success
    except httpx.TransportError:
        return False


async def _connects(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
