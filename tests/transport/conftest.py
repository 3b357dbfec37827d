"""A served method on a socket, by each transport in turn."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from keytoll.envoy.check import CHECK_SERVICE
from keytoll.envoy.server import EnvoyServer
from keytoll.envoy.transport.limits import Limits
from keytoll.envoy.transport.server import Ngh2Server
from keytoll.sockets import short_path
from transport.scripted import Script

TRANSPORTS = ("ngh2", "grpcio")


@dataclass(frozen=True, slots=True)
class Served:
    """A running server, and the method behind it."""

    transport: str
    path: Path
    script: Script
    server: Ngh2Server | EnvoyServer

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel of grpcio's own client, with a connection of its own."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        with short_path(self.path) as path:
            async with grpc.aio.insecure_channel(f"unix:{path}", options=options) as channel:
                yield channel


@asynccontextmanager
async def served(folder: Path, transport: str, limits: Limits | None = None) -> AsyncIterator[Served]:
    """Serve a script on a socket in a folder."""
    script, path = Script(), folder / "envoy.sock"
    server: Ngh2Server | EnvoyServer
    if transport == "grpcio":
        server = EnvoyServer(path, check=script, void=script.void, als=None)
    else:
        server = Ngh2Server(path, check=script, void=script.void, limits=limits or Limits())
    await server.start()
    try:
        yield Served(transport, path, script, server)
    finally:
        await server.stop(grace_s=0.2)


@pytest.fixture(params=TRANSPORTS)
async def service(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """The script, served by each transport."""
    async with served(tmp_path, request.param) as made:
        yield made
    if isinstance(made.server, Ngh2Server):
        assert made.server.connections == made.server.open_calls == 0, "something is left behind"


@pytest.fixture
async def ngh2(tmp_path: Path) -> AsyncIterator[Served]:
    """The script, served by libnghttp2."""
    async with served(tmp_path, "ngh2") as made:
        yield made


def check_of(
    channel: grpc.aio.Channel, path: str = f"/{CHECK_SERVICE}/Check"
) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
    """Return Check, or what else has this path, from bytes to bytes."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return method
