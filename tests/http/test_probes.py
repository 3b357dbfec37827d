"""What Prometheus and the kubelet see."""

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from keytoll.http.probes import create_probes
from keytoll.http.server import serve_tcp


@pytest.mark.parametrize("accept", ["*/*", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"])
async def test_metrics_are_told_in_the_format_that_is_asked_for(accept: str) -> None:
    registry = CollectorRegistry()
    Counter("decisions", "Decisions.", registry=registry).inc()
    async with (
        serve_tcp(create_probes(registry, list), host="127.0.0.1", port=0) as port,
        httpx.AsyncClient() as client,
    ):
        answer = await client.get(f"http://127.0.0.1:{port}/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics" if "open" in accept else "text/plain")
    assert "decisions_total 1.0" in answer.text
    if "open" not in accept:
        assert "decisions" in {family.name for family in text_string_to_metric_families(answer.text)}


async def test_readiness_names_what_is_missing_and_liveness_does_not_depend_on_it() -> None:
    missing = ["store"]
    probes = create_probes(CollectorRegistry(), lambda: missing)
    async with serve_tcp(probes, host="127.0.0.1", port=0) as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "not_ready": ["store"]})
        assert (await client.get(f"http://127.0.0.1:{port}/healthz")).text == "ok\n"
        missing.clear()
        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "not_ready": []})
