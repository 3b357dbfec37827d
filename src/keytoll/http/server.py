"""HTTP servers on the running event loop: over a UNIX socket, for its own user and root only, or over TCP.

They install no signal handlers and write no access log: the process that runs them does what is to be done of it.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from keytoll.http.listeners import peer_uid, tcp_listener, unix_listener

_MAX_CONNECTIONS = 256
_STOP_S = 5

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def serve_unix(app: ASGIApp, path: Path) -> AsyncIterator[None]:
    """Serve at a UNIX socket that only the process's own user and root can use, while the context lasts.

    Raises CannotStart.
    """
    with unix_listener(path) as listener:
        async with _serving(app, listener, _OwnUsersProtocol):
            yield


@contextlib.asynccontextmanager
async def serve_tcp(app: ASGIApp, *, host: str, port: int, setting: str = "port") -> AsyncIterator[int]:
    """Serve on a TCP port, 0 for any free one, while the context lasts; gives the port.

    Raises CannotStart, which names the `setting` that chose the port.
    """
    with tcp_listener(host, port, setting=setting) as listener:
        number = int(listener.getsockname()[1])
        async with _serving(app, listener, H11Protocol):
            yield number


@contextlib.asynccontextmanager
async def _serving(app: ASGIApp, listener: socket.socket, protocol: type[H11Protocol]) -> AsyncIterator[None]:
    """Answer requests; at the end take no more, and finish those that run, for some seconds at most."""
    server = _Server(_config(app, protocol))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    await _first_of(running, server.answering)
    try:
        yield
    finally:
        server.stop()
        await running


async def _first_of(running: asyncio.Task[None], answering: asyncio.Event) -> None:
    waiting = asyncio.create_task(answering.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answering = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.answering.set()

    async def main_loop(self) -> None:
        # Instead of uvicorn's ten wake-ups a second: one, for the Date header, and at once when it is to stop.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _OwnUsersProtocol(H11Protocol):
    """Closes connections of other users: the socket's mode guards it already, but a mode can be changed by mistake."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid in (0, os.geteuid()):
            super().connection_made(transport)
        else:
            _log.warning("connection_refused", uid=uid)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.connections:
            super().connection_lost(exc)


def _config(app: ASGIApp, protocol: type[H11Protocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_S,
    )
