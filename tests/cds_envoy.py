"""The real Envoy with nothing but a CDS folder, and real HTTP backends: what the tests of clusters and publishing share.

A request names its pool, and where its model stands in the body, by headers: here no Check decides that.
"""

import asyncio
import json
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from keytoll.envoy.admin import Admin, AdminUnavailable
from keytoll.envoy.clusters import find_envoy

_TYPE = "type.googleapis.com/envoy."
_STEER = """
function envoy_on_request(handle)
  local headers = handle:headers()
  local retries, span = headers:get("x-test-retries"), headers:get("x-test-model-at")
  if span then handle:streamInfo():dynamicMetadata():set("kt.lua", "model_at", span) end
  if retries then headers:replace("x-envoy-max-retries", retries) end
end
"""


_T = TypeVar("_T")


async def until(look: Callable[[], Awaitable[_T]], *, within_s: float = 10.0) -> _T:
    """Return what `look` returns once it is true. Raises AssertionError when it isn't within the time."""
    deadline_s = time.monotonic() + within_s
    while not (seen := await look()):
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {look}"
        await asyncio.sleep(0.02)
    return seen


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Received:
    """A request as a backend got it. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Backend:
    """An HTTP/1.1 server that answers every request with `status` and its own name, and keeps what it received."""

    name: str
    port: int = 0
    status: int = 200
    received: list[Received] = field(default_factory=list)

    @property
    def last(self) -> Received:
        """The latest request."""
        return self.received[-1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await _head(reader)) is not None:
                path, headers = head
                self.received.append(Received(path, headers, await _body(reader, headers)))
                body = json.dumps({"backend": self.name}).encode()
                writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def backend(name: str, *, host: str = "127.0.0.1", certificate: Path | None = None) -> AsyncIterator[Backend]:
    """Run a backend, with TLS if it has a certificate."""
    made = Backend(name)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(made._serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, host, 0, ssl=context, limit=2**20)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *lines = text.strip().split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return first.split(" ")[1], {name.lower(): value.strip() for name, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


@dataclass(slots=True)
class CdsEnvoy:
    """An Envoy whose clusters come from `run_dir/xds/clusters.json`."""

    run_dir: Path
    port: int
    client: httpx.AsyncClient
    admin: Admin
    process: asyncio.subprocess.Process | None = None

    async def post(self, pool: str, *, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        """Post a small body by way of a pool; `_` in the names of headers stands for `-`."""
        return await self.send(pool, b'{"model": "m"}', path=path, **headers)

    async def send(self, pool: str, body: bytes, *, path: str = "/v1/embeddings", **headers: str) -> httpx.Response:
        """Post this body by way of a pool."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=body, headers={"x-kt-route": pool, **named})

    async def start(self) -> None:
        """Start Envoy, and wait until its admin socket answers."""
        (self.run_dir / "envoy.json").write_text(json.dumps(_bootstrap(self.port)))
        with (self.run_dir / "envoy.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(
                    find_envoy(),
                    "-c",
                    "envoy.json",
                    "--concurrency",
                    "2",
                    "--use-dynamic-base-id",
                    "--disable-hot-restart",
                ),
                *("--log-level", "warn", "--reject-unknown-dynamic-fields"),
                cwd=self.run_dir,
                stdout=log,
                stderr=log,
            )
        await until(self._is_up)

    async def stop(self) -> None:
        """Stop Envoy and wait for its end."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, (self.run_dir / "envoy.log").read_text()
        try:
            await self.admin.warming_clusters()
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except (AdminUnavailable, OSError):
            return False
        writer.close()
        return True


@asynccontextmanager
async def cds_envoy(*, started: bool = True) -> AsyncIterator[CdsEnvoy]:
    """Run an Envoy of one's own in a folder of its own, whose path is short enough for a socket."""
    async with AsyncExitStack() as stack:
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kt-")))
        for folder in ("xds", "credentials"):
            (run_dir / folder).mkdir()
        (run_dir / "xds" / "clusters.json").write_text('{"version_info": "none", "resources": []}')
        port = free_port()
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
        admin = Admin(run_dir / "admin.sock")
        made = CdsEnvoy(run_dir, port, await stack.enter_async_context(client), await stack.enter_async_context(admin))
        stack.push_async_callback(made.stop)
        if started:
            await made.start()
        yield made


def _bootstrap(port: int) -> dict[str, Any]:
    source = {"path": "xds/clusters.json", "watched_directory": {"path": "xds"}}
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": "admin.sock"}}},
        "dynamic_resources": {"cds_config": {"path_config_source": source, "resource_api_version": "V3"}},
        "static_resources": {"listeners": [_listener(port)]},
    }


def _listener(port: int) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "data",
        "use_remote_address": True,
        "route_config": {"virtual_hosts": [_virtual_host()]},
        "http_filters": [
            _filter("lua.v3.Lua", default_source_code={"inline_string": _STEER}),
            _filter("router.v3.Router"),
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": "data", "address": address, "filter_chains": [chain]}


def _filter(type_name: str, **config: object) -> dict[str, Any]:
    return {"name": type_name, "typed_config": {"@type": f"{_TYPE}extensions.filters.http.{type_name}", **config}}


def _virtual_host() -> dict[str, Any]:
    retry_policy = {
        "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-status-codes",
        "retriable_status_codes": [429, 500, 502, 503],
        "num_retries": 0,
        "retry_back_off": {"base_interval": "0.005s"},
    }
    route = {"cluster_header": "x-kt-route", "timeout": "0s", "retry_policy": retry_policy}
    routes = [{"match": {"prefix": "/"}, "route": route}]
    return {"name": "all", "domains": ["*"], "request_body_buffer_limit": 33_554_432, "routes": routes}
