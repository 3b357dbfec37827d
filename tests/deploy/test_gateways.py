"""Keytoll beside Envoys that are there already: one that serves other things too, and one that stands before it, as Envoy
Gateway's does. Both are done as the operator's guide says."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from deploy.pod import MODEL, PROJECT, Pod, backend, until
from keytoll.demo.part import Part, Program
from keytoll.demo.ports import Ports
from keytoll.envoy.clusters import find_envoy

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
LARGE = {"model": "none", "messages": [{"role": "user", "content": "x" * 20_000_000}]}
JUDGED_FIRST = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 40_000}]}
"""Large enough for a Check of its headers alone."""
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


async def new_key(pod: Pod, **fields: Any) -> dict[str, Any]:
    return await pod.new_key(name=os.urandom(4).hex(), **fields)


@pytest.fixture(scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pod]:
    """A pod that trusts the proxy before it, and whose backend takes its time."""
    async with backend(token_delay_s=0.05) as port:
        pod = Pod(tmp_path_factory.mktemp("behind"), port, {"KEYTOLL_TRUSTED_HOPS": "1"})
        async with pod.running():
            yield pod


async def test_behind_a_gateway_a_key_is_judged_by_its_callers_address_which_he_can_t_forge(
    behind: Pod, tmp_path: Path
) -> None:
    key = await new_key(behind, allowed_networks=[f"{CALLER}/32"])
    async with gateway_before(behind, tmp_path, timeout="0s") as url:
        async with caller_from(CALLER, url, key["secret"]) as client:
            assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
        async with caller_from(OTHER, url, key["secret"]) as client:
            forged = {"x-forwarded-for": CALLER, "x-real-ip": CALLER, "x-envoy-external-address": CALLER}
            for body in (ASK, JUDGED_FIRST):
                answer = await client.post("/v1/chat/completions", json=body, headers=forged)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ip_not_allowed")


async def test_behind_a_gateway_answers_and_errors_reach_callers_as_they_are(behind: Pod, tmp_path: Path) -> None:
    key = await new_key(behind)
    async with gateway_before(behind, tmp_path, timeout="0s") as url:
        async with caller_from(CALLER, url, key["secret"]) as client:
            async with client.stream("POST", "/v1/chat/completions", json=counting(30)) as stream:
                lines = [line async for line in stream.aiter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            answer = await client.post("/v1/chat/completions", json=LARGE)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        async with caller_from(CALLER, url, "nothing") as client:
            answer = await client.post("/v1/chat/completions", json=ASK)
            assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false")
    assert (await the_charge(behind, key))["measured"] == "reported"


async def test_a_time_out_of_the_gateways_cuts_an_answer_which_is_charged_all_the_same(
    behind: Pod, tmp_path: Path
) -> None:
    """Why the guide says to have none: Envoy's is 15 seconds where nobody sets it."""
    key = await new_key(behind)
    async with gateway_before(behind, tmp_path, timeout="1s") as url, caller_from(CALLER, url, key["secret"]) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/v1/chat/completions", json=counting(100))
    assert Decimal((await the_charge(behind, key))["amount"]) > 0


def counting(words: int) -> dict[str, Any]:
    """Return a body whose answer is a stream of so many words."""
    return ASK | {"stream": True, "messages": [{"role": "user", "content": f"Count to {words}"}]}


async def the_charge(pod: Pod, key: dict[str, Any]) -> dict[str, Any]:
    """Return a key's only charge, once it is there."""
    found: list[dict[str, Any]] = []

    async def charged() -> bool:
        found[:] = [row for row in await pod.charges() if row["key_id"] == key["id"]]
        return bool(found)

    await until(charged)
    (row,) = found
    return row


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
            key = await new_key(pod, allowed_networks=[f"{CALLER}/32"])
            url, secret = f"http://127.0.0.1:{ports.backend}", key["secret"]
            async with caller_from(CALLER, url, secret) as client:
                assert (await client.get("/other")).text == "mine"
                assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
            async with caller_from(OTHER, url, secret) as client:
                forged = {"x-forwarded-for": CALLER}
                assert (await client.post("/v1/chat/completions", json=ASK, headers=forged)).status_code == 403
            await pod.charged(1)
