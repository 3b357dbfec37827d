"""Processes, started until they are ready, and what they have used by the kernel's own accounting."""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from keytoll.demo.part import Part, Program
from keytoll.envoy.clusters import find_envoy
from keytoll.sockets import short_path

PROJECT = Path(__file__).resolve().parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_us(pid: int) -> float:
    """Return the CPU time that a process has used, in user and kernel mode, in microseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000 / _TICKS


def resident_mib(pid: int) -> float:
    """Return a process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@asynccontextmanager
async def running(
    name: str,
    command: Sequence[str],
    *,
    folder: Path,
    ready: Callable[[], Awaitable[bool]],
    environment: Mapping[str, str] | None = None,
    stop_timeout_s: float = 20.0,
) -> AsyncIterator[Part]:
    """Run a program in a folder, from its being ready to the end of the context."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    part = Part(
        Program(
            name=name,
            command=command,
            cwd=folder,
            log=folder / f"{name}.log",
            kept_fd=nothing,
            ready=ready,
            environment=environment or {},
            start_timeout_s=60.0,
            stop_timeout_s=stop_timeout_s,
        )
    )
    try:
        await part.start()
        yield part
    finally:
        await part.stop()
        os.close(nothing)


@asynccontextmanager
async def envoy(name: str, config: str, *, folder: Path) -> AsyncIterator[Part]:
    """Run an Envoy with one worker; its admin interface must be `NAME-admin.sock`, or `admin.sock` for `envoy`."""
    path = folder / f"{name}{'.json' if config.startswith('{') else '.yaml'}"
    path.write_text(config, encoding="utf-8")
    options = ("--concurrency", "1", "--log-level", "error", "--disable-hot-restart")
    journal = ("--file-flush-interval-msec", "100", "--reject-unknown-dynamic-fields")
    command = (str(find_envoy().absolute()), "-c", str(path), *options, *journal)
    admin = folder / ("admin.sock" if name == "envoy" else f"{name}-admin.sock")
    async with running(
        name, command, folder=folder, ready=lambda: answers(admin, "/ready"), stop_timeout_s=5.0
    ) as part:
        yield part


@asynccontextmanager
async def python(
    module: str, *arguments: str, folder: Path, socket: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Part]:
    """Run a module of this package, ready once it has made its socket."""

    async def ready() -> bool:
        return socket.exists()

    command = (sys.executable, "-m", module, *arguments)
    found = {"PYTHONPATH": str(PROJECT)} | dict(environment or {})
    async with running(module.replace(".", "-"), command, folder=folder, ready=ready, environment=found) as part:
        yield part


async def answers(socket: Path, path: str) -> bool:
    """Return whether an HTTP server on a UNIX socket answers with success."""
    if not socket.exists():
        return False
    with short_path(socket) as short:
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=short), base_url="http://bench", timeout=10
        ) as client:
            try:
                return (await client.get(path)).is_success
            except httpx.TransportError:
                return False
