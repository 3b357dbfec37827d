"""Keytoll beside Envoys that are there already: one that serves other things too, and one that stands before it, as Envoy
Gateway's does. Both are done as the operator's guide says."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from deploy.pod import MODEL, PROJECT, Pod, backend
from keytoll.demo.part import Part, Program
from keytoll.demo.ports import Ports
from keytoll.envoy.clusters import find_envoy

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
CALLER, OTHER = "127.0.0.2", "127.0.0.3"
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def listener(name: str, port: int, route: dict[str, Any]) -> dict[str, Any]:
    """Return a listener that does one thing with all requests."""
    manager = {
        "@type": HTTP,
        "stat_prefix": name,
        "use_remote_address": True,
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
        "route_config": {
            "virtual_hosts": [
                {"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}} | route]},
            ]
        },
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


@asynccontextmanager
async def gateway_before(pod: Pod, folder: Path, **timeouts: str) -> AsyncIterator[str]:
    """Run an Envoy that sends everything to the pod, as Envoy Gateway's would, and give its address."""
    port, nothing = Ports.free().data, os.open(os.devnull, os.O_RDONLY)
    address = {"socket_address": {"address": "127.0.0.1", "port_value": pod.ports.data}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    cluster = {"name": "keytoll", "load_assignment": {"cluster_name": "keytoll", "endpoints": endpoints}}
    config = {
        "static_resources": {
            "listeners": [listener("gateway", port, {"route": {"cluster": "keytoll"} | timeouts})],
            "clusters": [cluster],
        }
    }
    (folder / "gateway.json").write_text(json.dumps(config))

    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    options = (
        "-c",
        str(folder / "gateway.json"),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    )
    program = Program(
        name="gateway",
        command=(str(find_envoy()), *options),
        cwd=folder,
        log=folder / "gateway.log",
        kept_fd=nothing,
        ready=ready,
    )
    part = Part(program)
    try:
        await part.start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await part.stop()
        os.close(nothing)


def caller_from(address: str, url: str, secret: str) -> httpx.AsyncClient:
    """Return a client that connects from an address of loopback."""
    headers = {"authorization": f"Bearer {secret}"}
    transport = httpx.AsyncHTTPTransport(local_address=address)
    return httpx.AsyncClient(transport=transport, base_url=url, headers=headers, timeout=30)


async def new_key(pod: Pod, **fields: Any) -> str:
    async with pod.operator() as operator:
        answer = await operator.post("/api/v1/users/bob/keys", json={"name": os.urandom(4).hex()} | fields)
    return str(answer.raise_for_status().json()["secret"])


async def test_behind_a_gateway_a_key_is_judged_by_its_callers_address_which_he_can_t_forge(tmp_path: Path) -> None:
    async with backend() as port:
        pod = Pod(tmp_path, port, {"KEYTOLL_TRUSTED_HOPS": "1"})
        async with pod.running(), gateway_before(pod, tmp_path, timeout="0s") as url:
            secret = await new_key(pod, allowed_networks=[f"{CALLER}/32"])
            async with caller_from(CALLER, url, secret) as client:
                assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
            async with caller_from(OTHER, url, secret) as client:
                forged = {"x-forwarded-for": CALLER, "x-real-ip": CALLER}
                answer = await client.post("/v1/chat/completions", json=ASK, headers=forged)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ip_not_allowed")


async def test_behind_a_gateway_answers_and_errors_reach_callers_as_they_are(tmp_path: Path) -> None:
    async with backend(token_delay_s=0.05) as port:
        pod = Pod(tmp_path, port, {"KEYTOLL_TRUSTED_HOPS": "1"})
        async with pod.running(), gateway_before(pod, tmp_path, timeout="0s") as url:
            secret = await new_key(pod)
            async with caller_from(CALLER, url, secret) as client:
                body = ASK | {"stream": True, "messages": [{"role": "user", "content": "Count to 30"}]}
                async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
                    lines = [line async for line in stream.aiter_lines() if line]
                assert lines[-1] == "data: [DONE]"
                large = {"model": "none", "messages": [{"role": "user", "content": "x" * 20_000_000}]}
                answer = await client.post("/v1/chat/completions", json=large)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
            async with caller_from(CALLER, url, "nothing") as client:
                answer = await client.post("/v1/chat/completions", json=ASK)
                assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false")
            (row,) = await pod.charged(1)
            assert row["measured"] == "reported"


async def test_a_time_out_of_the_gateways_cuts_an_answer_which_is_charged_all_the_same(tmp_path: Path) -> None:
    """Why the guide says to have none: Envoy's is 15 seconds where nobody sets it."""
    async with backend(token_delay_s=0.1) as port:
        pod = Pod(tmp_path, port, {"KEYTOLL_TRUSTED_HOPS": "1"})
        async with pod.running(), gateway_before(pod, tmp_path, timeout="1s") as url:
            secret = await new_key(pod)
            async with caller_from(CALLER, url, secret) as client:
                body = ASK | {"stream": True, "messages": [{"role": "user", "content": "Count to 50"}]}
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.post("/v1/chat/completions", json=body)
            (row,) = await pod.charged(1)
            assert float(row["amount"]) > 0


async def test_an_envoy_with_a_listener_and_a_cluster_of_ones_own_serves_both(tmp_path: Path) -> None:
    """Keytoll's configuration with something added; what is for the models goes to the listener `data` over loopback."""
    config = YAML(typ="safe", pure=True).load((PROJECT / "envoy.yaml").read_text(encoding="utf-8"))
    static, ports = config["static_resources"], Ports.free()
    data = {"socket_address": {"address": "127.0.0.1", "port_value": ports.data}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": data}}]}]
    static["clusters"].append({"name": "models", "load_assignment": {"cluster_name": "models", "endpoints": endpoints}})
    own = listener("own", ports.backend, {"direct_response": {"status": 200, "body": {"inline_string": "mine"}}})
    routes = own["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    routes.insert(0, {"match": {"prefix": "/v1/"}, "route": {"cluster": "models", "timeout": "0s"}})
    static["listeners"].append(own)
    with (tmp_path / "mine.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(config, file)
    async with backend() as port:
        pod = Pod(
            tmp_path, port, {"KEYTOLL_ENVOY_YAML": str(tmp_path / "mine.yaml"), "KEYTOLL_TRUSTED_HOPS": "1"}, ports
        )
        async with pod.running():
            url, secret = f"http://127.0.0.1:{ports.backend}", await new_key(pod, allowed_networks=[f"{CALLER}/32"])
            async with caller_from(CALLER, url, secret) as client:
                assert (await client.get("/other")).text == "mine"
                assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
            async with caller_from(OTHER, url, secret) as client:
                forged = {"x-forwarded-for": CALLER}
                assert (await client.post("/v1/chat/completions", json=ASK, headers=forged)).status_code == 403
            await pod.charged(1)
