"""Clusters in the real Envoy: which backend gets a request, and exactly what it gets."""

import asyncio
import importlib
import json
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cds_envoy import Backend, CdsEnvoy, backend, cds_envoy, free_port, until

from keytoll.catalog import Catalog, load_catalog
from keytoll.envoy.clusters import (
    ClustersInvalid,
    EnvoyNotFound,
    find_ca_file,
    find_envoy,
    render_clusters,
    validate_clusters,
)

TLS = Path(__file__).parent / "tls"
PRICE = "{input: 1, output: 1}"


def catalog_text(a: int, b: int, c: int, secure: int, dead: int) -> str:
    """Return a catalog of pools that each show something; a, b, c and secure are the ports of backends."""
    return f"""
currency: CNY
billing_time_zone: UTC
models:
  fallback:
    context_length: 10
    price: {PRICE}
    backends:
    - {{url: "http://127.0.0.1:{a}/v1", model: upstream-a, credential: one, allow_local: true}}
    - {{url: "http://localhost:{b}/api/openai/v1", model: b/longer-name, credential: two, priority: 1, allow_local: true}}
    - {{url: "http://127.0.0.1:{c}", model: c, priority: 2, allow_local: true}}
  dead:
    context_length: 10
    price: {PRICE}
    backends:
    - {{url: "http://127.0.0.1:{dead}", allow_local: true}}
    - {{url: "http://127.0.0.1:{b}", priority: 1, allow_local: true}}
  org/weighted:v1:
    context_length: 10
    price: {PRICE}
    backends:
    - {{url: "http://127.0.0.1:{a}", weight: 4, credential: one, allow_local: true}}
    - {{url: "http://127.0.0.1:{b}", weight: 1, credential: two, allow_local: true}}
  rotating:
    context_length: 10
    price: {PRICE}
    backends: [{{url: "http://127.0.0.1:{a}", credential: rotating, allow_local: true}}]
  keyless:
    context_length: 10
    price: {PRICE}
    backends: [{{url: "http://127.0.0.1:{a}", credential: absent, allow_local: true}}]
  torn:
    context_length: 10
    price: {PRICE}
    backends: [{{url: "http://127.0.0.1:{a}", credential: torn, allow_local: true}}]
  secure:
    context_length: 10
    price: {PRICE}
    backends: [{{url: "https://localhost:{secure}", credential: one, allow_local: true}}]
  mixed:
    context_length: 10
    price: {PRICE}
    backends:
    - {{url: "http://127.0.0.1:{a}", allow_local: true}}
    - {{url: "https://localhost:{secure}", allow_local: true}}
  wildcard:
    context_length: 10
    price: {PRICE}
    backends: [{{url: "https://models.localhost:{secure}", allow_local: true}}]
  impostor:
    context_length: 10
    price: {PRICE}
    backends: [{{url: "https://127.0.0.1:{secure}", allow_local: true}}]
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One Envoy, its catalog and its backends."""

    envoy: CdsEnvoy
    catalog: Catalog
    a: Backend
    b: Backend
    c: Backend
    secure: Backend

    def reset(self) -> None:
        """Make all backends well and forgetful."""
        for each in (self.a, self.b, self.c, self.secure):
            each.status = 200
            each.received.clear()

    def counts(self) -> list[int]:
        """Return how many requests each of a, b and c received."""
        return [len(each.received) for each in (self.a, self.b, self.c)]


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        a, b, c = [await stack.enter_async_context(backend(name)) for name in "abc"]
        secure = await stack.enter_async_context(backend("secure", certificate=TLS / "server.pem"))
        envoy = await stack.enter_async_context(cds_envoy(started=False))
        for name, secret in {"one": "secret-1\n", "two": "secret-2", "torn": "secret\r\nx-evil: 1"}.items():
            (envoy.run_dir / "credentials" / name).write_text(secret)
        path = envoy.run_dir / "keytoll.yaml"
        path.write_text(catalog_text(a.port, b.port, c.port, secure.port, free_port()))
        catalog = load_catalog(path)
        text = render_clusters(catalog.models.values(), version="v1", ca_file=TLS / "ca.pem")
        await validate_clusters(text, envoy=find_envoy())
        (envoy.run_dir / "xds" / "clusters.json").write_text(text)
        await envoy.start()

        async def is_taken() -> bool:
            return await envoy.admin.cds_version() == "v1" and not await envoy.admin.warming_clusters()

        await until(is_taken)
        yield Stage(envoy, catalog, a, b, c, secure)


@pytest.fixture
def stage(running: Stage) -> Stage:
    running.reset()
    return running


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_failing_backend_is_followed_by_the_next_priority(stage: Stage, status: int) -> None:
    stage.a.status = status
    answer = await stage.envoy.post("model/fallback", x_test_retries="2")
    assert (answer.status_code, answer.json()) == (200, {"backend": "b"})
    assert stage.counts() == [1, 1, 0]


async def test_a_well_backend_of_the_first_priority_gets_every_request(stage: Stage) -> None:
    for _ in range(5):
        await stage.envoy.post("model/fallback", x_test_retries="2")
    assert stage.counts() == [5, 0, 0]


async def test_a_dead_port_is_followed_by_the_next_priority(stage: Stage) -> None:
    answer = await stage.envoy.post("model/dead", x_test_retries="1")
    assert (answer.status_code, answer.json()) == (200, {"backend": "b"})


async def test_the_last_backends_own_answer_reaches_the_caller(stage: Stage) -> None:
    stage.a.status = stage.b.status = 500
    stage.c.status = 429
    answer = await stage.envoy.post("model/fallback", x_test_retries="2")
    assert (answer.status_code, answer.json()) == (429, {"backend": "c"})
    assert stage.counts() == [1, 1, 1]


async def test_a_callers_mistake_is_not_tried_again(stage: Stage) -> None:
    stage.a.status = 400
    answer = await stage.envoy.post("model/fallback", x_test_retries="2")
    assert answer.status_code == 400
    assert stage.counts() == [1, 0, 0]


async def test_every_one_of_many_parallel_failures_falls_back(stage: Stage) -> None:
    """Envoy's default of three retries at a time would fail most of these."""
    stage.a.status = 503
    answers = await asyncio.gather(*(stage.envoy.post("model/fallback", x_test_retries="2") for _ in range(40)))
    assert Counter(answer.status_code for answer in answers) == {200: 40}
    assert len(stage.b.received) == 40


async def test_weights_share_one_priority_exactly_over_a_round(stage: Stage) -> None:
    # Each of Envoy's two workers has a round of its own; within it 4 to 1 is exact.
    for _ in range(50):
        assert (await stage.envoy.post("model/org/weighted:v1")).status_code == 200
    assert 38 <= len(stage.a.received) <= 42
    assert sum(stage.counts()) == 50


async def test_each_backend_gets_its_own_credential_path_and_name(stage: Stage) -> None:
    """Attempts share one header map: nothing of an earlier backend may reach a later one."""
    stage.a.status = stage.b.status = 503
    path = "/v1/chat/completions?api-version=1"
    await stage.envoy.post("model/fallback", path=path, x_test_retries="2", authorization="Bearer gw-sk-caller")
    a, b, c = stage.a.last, stage.b.last, stage.c.last
    assert [each.path for each in (a, b, c)] == [
        "/v1/chat/completions",
        "/api/openai/v1/chat/completions",
        "/v1/chat/completions",
    ]
    assert [each.headers.get("authorization") for each in (a, b, c)] == ["Bearer secret-1", "Bearer secret-2", None]
    hosts = [f"127.0.0.1:{stage.a.port}", f"localhost:{stage.b.port}", f"127.0.0.1:{stage.c.port}"]
    assert [each.headers["host"] for each in (a, b, c)] == hosts


async def test_backends_of_one_priority_get_their_own_credentials(stage: Stage) -> None:
    for _ in range(20):
        await stage.envoy.post("model/org/weighted:v1")
    assert {each.headers["authorization"] for each in stage.a.received} == {"Bearer secret-1"}
    assert {each.headers["authorization"] for each in stage.b.received} == {"Bearer secret-2"}


async def test_the_model_in_the_body_becomes_the_backends_name_of_it(stage: Stage) -> None:
    stage.a.status = stage.b.status = 500
    body = b'{"stream": false, "model":"fallback" , "input": "\xe2\x82\xac 1.0"}'
    first = body.index(b'"fallback"') + 1
    span = f"{first} {first + len('fallback') + 1}"
    answer = await stage.envoy.send("model/fallback", body, x_test_retries="2", x_test_model_at=span)
    assert answer.status_code == 200
    for each, name in ((stage.a, b"upstream-a"), (stage.b, b"b/longer-name"), (stage.c, b"c")):
        assert each.last.body == body.replace(b'"fallback"', b'"' + name + b'"')
        assert each.last.headers["content-length"] == str(len(each.last.body))


async def test_a_body_of_10_mib_is_edited_for_both_attempts(stage: Stage) -> None:
    stage.a.status = 500
    body = b'{"model":"m","input":"' + b"x" * 10_485_760 + b'"}'
    answer = await stage.envoy.send("model/fallback", body, x_test_retries="2", x_test_model_at="10 12")
    assert answer.status_code == 200
    assert stage.a.last.body == body.replace(b'"m"', b'"upstream-a"', 1)
    assert stage.b.last.body == body.replace(b'"m"', b'"b/longer-name"', 1)


async def test_a_body_is_untouched_where_the_route_already_named_the_model(stage: Stage) -> None:
    body = b'{ "model" : "m" }\n'
    await stage.envoy.send("model/fallback", body)
    assert stage.a.last.body == body


async def test_a_backend_never_sees_the_caller_or_what_steers_envoy(stage: Stage) -> None:
    sent = {
        "authorization": "Bearer gw-sk-caller",
        "proxy_authorization": "Basic x",
        "api_key": "k",
        "x_api_key": "k",
        "x_goog_api_key": "k",
        "cookie": "session=1",
        "openai_organization": "org-1",
        "openai_project": "proj-1",
        "x_forwarded_for": "192.0.2.1",
        "x_forwarded_host": "inside",
        "x_kt_known": "1",
        "x_kt_backend": "other.example /v1 dearer one",
        "x_envoy_original_path": "/x",
        "x_envoy_external_address": "192.0.2.1",
    }
    await stage.envoy.post("model/dead", x_test_retries="1", **sent)
    names = set(stage.b.last.headers)
    assert not names & {name.replace("_", "-") for name in sent}
    assert not [name for name in names if name.startswith(("x-kt-", "x-envoy-", "x-forwarded-"))]


async def test_a_credential_that_is_missing_is_an_outage_and_never_the_callers_key(stage: Stage) -> None:
    answer = await stage.envoy.post("model/keyless", authorization="Bearer gw-sk-caller")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "upstream_unavailable"
    assert answer.headers["content-type"] == "application/json"
    assert stage.counts() == [0, 0, 0]


async def test_a_credential_with_a_line_break_cannot_add_headers(stage: Stage) -> None:
    assert (await stage.envoy.post("model/torn")).status_code == 503
    assert stage.counts() == [0, 0, 0]


async def test_a_replaced_credential_is_used_and_a_vanished_one_goes_on(stage: Stage) -> None:
    file = stage.envoy.run_dir / "credentials" / "rotating"
    file.write_text("before")
    # One connection stays with one of Envoy's workers, each of which has read the file for itself.
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=stage.envoy.client.base_url, limits=limits, trust_env=False) as client:
        envoy = replace(stage.envoy, client=client)

        async def is_sent(secret: str) -> bool:
            answer = await envoy.post("model/rotating")
            return answer.status_code == 200 and stage.a.last.headers["authorization"] == f"Bearer {secret}"

        await until(lambda: is_sent("before"))
        fresh = file.with_suffix(".new")
        fresh.write_text("after")
        fresh.rename(file)
        await until(lambda: is_sent("after"), within_s=3)
        file.unlink()
        gone_s = time.monotonic()
        while time.monotonic() < gone_s + 1.5:  # longer than a secret is kept without a look at its file
            assert await is_sent("after")


async def test_an_error_in_the_script_lets_nothing_through(stage: Stage) -> None:
    """Envoy lets a request go on after a Lua error; a path that no base path fits is such an error."""
    answer = await stage.envoy.post("model/fallback", path="/other", x_test_retries="2")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    assert stage.counts() == [0, 0, 0]


@pytest.mark.parametrize("pool", ["model/secure", "model/wildcard"])
async def test_https_backends_are_reached_by_a_name_of_their_certificate(stage: Stage, pool: str) -> None:
    answer = await stage.envoy.post(pool)
    assert (answer.status_code, answer.json()) == (200, {"backend": "secure"})


async def test_a_trusted_certificate_of_another_name_is_refused(stage: Stage) -> None:
    answer = await stage.envoy.post("model/impostor")
    assert answer.status_code == 503
    assert stage.secure.received == []


async def test_http_and_https_backends_can_share_a_priority(stage: Stage) -> None:
    for _ in range(8):
        assert (await stage.envoy.post("model/mixed")).status_code == 200
    assert len(stage.a.received) > 0
    assert len(stage.secure.received) > 0


async def test_no_field_of_the_rendering_is_unknown_to_envoys_types(stage: Stage) -> None:
    """The published messages are an oracle that is not our own: every field survives the way through them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own deprecations
        cluster_type: Any = importlib.import_module("envoy_data_plane.envoy.config.cluster.v3").Cluster
        snake = importlib.import_module("betterproto2").Casing.SNAKE
        for module in ("clusters.composite", "upstreams.http", "transport_sockets.tls"):
            importlib.import_module(f"envoy_data_plane.envoy.extensions.{module}.v3")
        for module in ("header_mutation", "lua", "upstream_codec"):
            importlib.import_module(f"envoy_data_plane.envoy.extensions.filters.http.{module}.v3")
    text = render_clusters(stage.catalog.models.values(), version="v1", ca_file=TLS / "ca.pem")
    for resource in json.loads(text)["resources"]:
        assert resource.pop("@type") == "type.googleapis.com/envoy.config.cluster.v3.Cluster"
        assert cluster_type.from_dict(resource).to_dict(casing=snake) == resource


def rendered(stage: Stage) -> dict[str, Any]:
    text = render_clusters([stage.catalog.models["secure"]], version="v1", ca_file=TLS / "ca.pem")
    document: dict[str, Any] = json.loads(text)
    return document


async def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(ClustersInvalid) as caught:
        await validate_clusters(json.dumps(document), envoy=find_envoy())
    return str(caught.value)


async def test_an_unknown_field_is_refused_with_its_name_in_one_line(stage: Stage) -> None:
    document = rendered(stage)
    document["resources"][0]["conect_timeout"] = "1s"
    reason = await refusal(document)
    assert "conect_timeout" in reason
    assert "\n" not in reason


async def test_a_value_that_envoy_refuses_is_refused(stage: Stage) -> None:
    document = rendered(stage)
    document["resources"][0]["connect_timeout"] = "0s"
    assert "ConnectTimeout" in await refusal(document)


async def test_a_member_that_does_not_exist_and_a_repeated_name_are_refused(stage: Stage) -> None:
    document = rendered(stage)
    missing = {**document, "resources": document["resources"][1:]}
    assert await refusal(missing) == "cluster model/secure has no member model/secure#0"
    twice = {**document, "resources": document["resources"] * 2}
    assert await refusal(twice) == "cluster model/secure#0 is given twice"


async def test_an_envoy_that_cannot_run_or_hangs_is_told(stage: Stage, tmp_path: Path) -> None:
    text = json.dumps(rendered(stage))
    with pytest.raises(ClustersInvalid, match="can't run"):
        await validate_clusters(text, envoy=tmp_path / "envoy")
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(ClustersInvalid, match=r"within 0\.2 s"):
        await validate_clusters(text, envoy=slow, timeout_s=0.2)


def test_envoy_is_found_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_envoy().name == "envoy"
    monkeypatch.setenv("KEYTOLL_ENVOY", str(find_envoy()))
    assert find_envoy().is_file()
    monkeypatch.setenv("KEYTOLL_ENVOY", str(tmp_path / "none"))
    with pytest.raises(EnvoyNotFound, match="KEYTOLL_ENVOY names"):
        find_envoy()


def test_the_authorities_are_those_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "ca.pem"))
    assert find_ca_file() == TLS / "ca.pem"
