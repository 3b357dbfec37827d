"""The server that faces Envoy on a UNIX socket, carried by libnghttp2: Check and health."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

from keytoll.envoy.check import CHECK_SERVICE, Handler, Void
from keytoll.envoy.transport.calls import Methods, Unary
from keytoll.envoy.transport.connection import Connection, Peers
from keytoll.envoy.transport.health import Health
from keytoll.envoy.transport.limits import Limits, Room
from keytoll.sockets import prepared, short_path

_BACKLOG = 1024


class Ngh2Server:
    """Serves Envoy on a UNIX socket until stopped."""

    def __init__(self, path: Path, *, check: Handler, void: Void, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        self._path = path
        self._limits = limits
        self._health = Health([CHECK_SERVICE])
        self._methods: Methods = {
            f"/{CHECK_SERVICE}/Check".encode(): Unary(check, "CheckRequest", void),
            **self._health.methods,
        }
        self._peers = Peers()
        self._room = Room(limits.unfinished_bytes)
        self._server: asyncio.Server | None = None

    @property
    def open_calls(self) -> int:
        """How many calls are under way, on all connections."""
        return sum(each.open_calls for each in self._peers.connected)

    @property
    def connections(self) -> int:
        """How many peers are connected."""
        return len(self._peers.connected)

    async def start(self) -> None:
        """Listen on the socket, which is then open to its owner and group. Raises OSError."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(prepared(self._path)) as path:
                listening.bind(path)
            self._path.chmod(0o660)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._connection, sock=listening, backlog=_BACKLOG)
        except BaseException:
            listening.close()
            raise

    async def stop(self, *, grace_s: float) -> None:
        """Refuse new calls, let those under way finish for at most `grace_s`, and close."""
        self._health.stop()
        if self._server is not None:
            self._server.close()
        for each in list(self._peers.connected):
            each.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._peers.gone.wait()
        for each in list(self._peers.connected):
            each.finish()
        await self._peers.gone.wait()

    def _connection(self) -> Connection:
        return Connection(self._methods, limits=self._limits, room=self._room, peers=self._peers)
