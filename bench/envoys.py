"""The Envoys that are compared: none of the filters, Check alone, the complete envoy.yaml, and the backend."""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench.processes import PROJECT

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy."
_HCM = f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Json = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{_TYPE}extensions.filters.http.router.v3.Router"},
}
_READ_FIRST: Json = {
    "name": "buffer",
    "typed_config": {"@type": f"{_TYPE}extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": 1048576},
}
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "bench",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello there. " * 8}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 40, "completion_tokens": 24, "total_tokens": 64},
    }
)
"""What the backend answers to everything, at once."""


def backend(port: int, *, reads_first: bool = False) -> str:
    """Return the configuration of a backend that takes a constant time: Envoy's own direct response.

    It comes as soon as the headers are there. Where the body comes later, that ends the connection, so that the Envoys
    before it open one for each request. With `reads_first`, as with a real model, they keep them.
    """
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": ANSWER}},
        "response_headers_to_add": [{"header": {"key": "content-type", "value": "application/json"}}],
    }
    return _bootstrap(
        "backend", port, filters=[*([_READ_FIRST] if reads_first else []), _ROUTER], routes=[route], clusters=[]
    )


def bare(port: int, backend_port: int) -> str:
    """Return the configuration of an Envoy that only passes on."""
    return _bootstrap("bare", port, filters=[_ROUTER], routes=[_to_backend()], clusters=[_backend(backend_port)])


def check_only(name: str, port: int, backend_port: int, socket: Path) -> str:
    """Return the configuration of an Envoy that asks Check as envoy.yaml does, and does nothing else of it."""
    manager = _complete_manager()
    filters = [each for each in manager["http_filters"] if each["name"] in ("kt.body", "kt.check")]
    settings = manager["route_config"]["virtual_hosts"][0]["typed_per_filter_config"]
    keytoll = {
        "name": "keytoll",
        "type": "STATIC",
        "load_assignment": _endpoint("keytoll", {"pipe": {"path": str(socket)}}),
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    return _bootstrap(
        name,
        port,
        filters=[*filters, _ROUTER],
        routes=[_to_backend()],
        clusters=[_backend(backend_port), keytoll],
        settings={"kt.check": settings["kt.check"]},
    )


def _complete_manager() -> Json:
    """Return the HTTP connection manager of envoy.yaml's data listener."""
    complete = YAML(typ="safe").load((PROJECT / "envoy.yaml").read_text(encoding="utf-8"))
    listener = next(each for each in complete["static_resources"]["listeners"] if each["name"] == "data")
    manager: Json = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _bootstrap(
    name: str, port: int, *, filters: list[Json], routes: list[Json], clusters: list[Json], settings: Json | None = None
) -> str:
    host = {"name": "all", "domains": ["*"], "routes": routes, "typed_per_filter_config": settings or {}}
    manager = {
        "@type": _HCM,
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [host]},
        "http_filters": filters,
    }
    listener = {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return json.dumps(
        {
            "admin": {"address": {"pipe": {"path": f"{name}-admin.sock"}}},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }
    )


def _to_backend() -> Json:
    return {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "0s"}}


def _backend(port: int) -> Json:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": "backend", "type": "STATIC", "load_assignment": _endpoint("backend", address)}


def _endpoint(cluster: str, address: Json) -> Json:
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
