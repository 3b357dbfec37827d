"""The real Envoy in front of a served Check, which lets pass what it is told to."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cds_envoy import free_port, until

from keytoll.envoy.admin import Admin, AdminUnavailable
from keytoll.envoy.clusters import find_envoy
from keytoll.envoy.messages.check_pb2 import CheckRequest, CheckResponse

_TYPE = "type.googleapis.com/envoy."
ECHO = "x-decided-for"


def allow(message: bytes) -> bytes:
    """Let a request pass whose authorization is `good`, and tell which one was asked about; deny any other."""
    headers = CheckRequest.FromString(message).attributes.request.http.headers
    response = CheckResponse()
    if headers["authorization"] == "good":
        option = response.ok_response.response_headers_to_add.add()
        option.header.key, option.header.value = ECHO, headers["x-number"]
    else:
        response.status.code = 7
        response.denied_response.status.code = 401
    return response.SerializeToString()


@dataclass(slots=True)
class Gateway:
    """An Envoy that answers 200 to whatever Check lets pass, and asks on `check.sock`."""

    folder: Path
    port: int
    process: asyncio.subprocess.Process

    @property
    def socket(self) -> Path:
        """Where Envoy asks."""
        return self.folder / "check.sock"

    async def ask(self, client: httpx.AsyncClient, number: int, *, key: str = "good") -> httpx.Response:
        """Send a request by a client."""
        url = f"http://127.0.0.1:{self.port}/"
        return await client.get(url, headers={"authorization": key, "x-number": str(number)})


@asynccontextmanager
async def envoy(*, concurrency: int = 2, timeout_s: float = 3.0) -> AsyncIterator[Gateway]:
    """Run Envoy in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="kt-") as name:
        folder, port = Path(name), free_port()
        (folder / "envoy.json").write_text(json.dumps(_bootstrap(port, timeout_s)))
        with (folder / "envoy.log").open("ab") as log:
            options = ("--concurrency", str(concurrency), "--use-dynamic-base-id", "--disable-hot-restart")
            process = await asyncio.create_subprocess_exec(
                find_envoy(), "-c", "envoy.json", *options, "--log-level", "warn", cwd=folder, stdout=log, stderr=log
            )
        try:
            async with Admin(folder / "admin.sock") as admin:
                await until(_up(admin))
            yield Gateway(folder, port, process)
        finally:
            process.kill()
            await process.wait()


def _up(admin: Admin) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        try:
            await admin.warming_clusters()
        except AdminUnavailable:
            return False
        return True

    return look


def _bootstrap(port: int, timeout_s: float) -> dict[str, Any]:
    return {
        "admin": {"address": {"pipe": {"path": "admin.sock"}}},
        "static_resources": {"listeners": [_listener(port, timeout_s)], "clusters": [_cluster()]},
    }


def _cluster() -> dict[str, Any]:
    options = f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"endpoint": {"address": {"pipe": {"path": "check.sock"}}}}
    return {
        "name": "check",
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "load_assignment": {"cluster_name": "check", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def _listener(port: int, timeout_s: float) -> dict[str, Any]:
    check = {
        "@type": f"{_TYPE}extensions.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "check"}, "timeout": f"{timeout_s}s"},
        "status_on_error": {"code": "ServiceUnavailable"},
    }
    router = {"@type": f"{_TYPE}extensions.filters.http.router.v3.Router"}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "data",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "check", "typed_config": check}, {"name": "router", "typed_config": router}],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": "data",
        "address": address,
        "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}],
    }
