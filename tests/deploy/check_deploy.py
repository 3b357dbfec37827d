"""`make deploy-check`: deploy/ as the tools of those who use it see it. Not a part of `make test`, since it needs them.

Everything is offline: Kubernetes' schemas come with their checker, and a real Prometheus scrapes a real Keytoll here.
"""

import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from deploy.pod import DEPLOY, MODEL, Pod, backend, manifests, until
from deploy.queries import MONITORING, alerts, dashboard_queries, rules
from deploy.rendering import BIN, containers_of, of_kind, pod_of, rendered, run, with_components
from keytoll.demo.part import Part, Program
from keytoll.demo.ports import Ports

OVERLAYS = sorted(each.name for each in (DEPLOY / "overlays").iterdir())
KUBERNETES = ("1.31", "1.37")
PODS = ("restore.yaml", "migrate.yaml")
"""What an operator starts by hand, and removes again."""

CUSTOM_KINDS = {"PodMonitor", "PrometheusRule"}
"""Of the Prometheus operator, whose schemas aren't Kubernetes' own."""

ALLOWED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}


async def test_the_dockerfile_is_clean() -> None:
    assert await run(BIN / "hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile") == ""


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_an_overlay_is_what_kubernetes_takes(tmp_path: Path, overlay: str, version: str) -> None:
    objects = await run(BIN / "kubectl", "kustomize", DEPLOY / "overlays" / overlay)
    (tmp_path / "all.yaml").write_text(objects)
    out = await run(BIN / "kubernetes-validate", "--strict", "-k", version, tmp_path / "all.yaml")
    assert out.count(" passed ") == objects.count("\nkind: ")


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("pod", PODS)
async def test_a_pod_that_is_started_by_hand_is_what_kubernetes_takes(pod: str, version: str) -> None:
    out = await run(BIN / "kubernetes-validate", "--strict", "-k", version, DEPLOY / pod)
    assert " passed " in out


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_the_pods_of_an_overlay_are_as_its_namespace_demands(overlay: str) -> None:
    objects = await rendered(DEPLOY / "overlays" / overlay)
    labels = of_kind(objects, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert what_restricted_forbids(pod_of(objects)["spec"]) == []


@pytest.mark.parametrize("pod", PODS)
async def test_a_pod_that_is_started_by_hand_is_as_its_namespace_demands(pod: str) -> None:
    assert what_restricted_forbids(manifests(pod)[0]["spec"]) == []


def what_restricted_forbids(spec: Any) -> list[str]:
    """Return what the profile `restricted` of Pod Security would refuse in a pod."""
    of_pod = spec["securityContext"]
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    found += [] if of_pod.get("runAsNonRoot") is True and of_pod.get("runAsUser") != 0 else ["runAs"]
    found += [] if of_pod.get("seccompProfile") == {"type": "RuntimeDefault"} else ["seccompProfile"]
    for volume in spec["volumes"]:
        found += [f"volume {volume['name']}"] if not volume.keys() - {"name"} <= ALLOWED_VOLUMES else []
    for name, container in containers_of(spec).items():
        given = dict(container["securityContext"])
        allowed = given.pop("allowPrivilegeEscalation", None) is False
        allowed &= given.pop("capabilities", None) == {"drop": ["ALL"]}
        given.pop("readOnlyRootFilesystem", None)
        found += [] if allowed and not given else [f"container {name}"]
        found += [f"host port of {name}" for port in container.get("ports", ()) if "hostPort" in port]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_what_selects_pods_selects_those_of_keytoll_and_no_others(overlay: str) -> None:
    """An empty selector would select whatever else runs in the namespace."""
    objects = await rendered(DEPLOY / "overlays" / overlay)
    labels = pod_of(objects)["metadata"]["labels"]
    selectors = [each["spec"]["selector"] for each in objects if each["kind"] == "Service"]
    selectors += [
        of_kind(objects, kind)["spec"]["selector"]["matchLabels"] for kind in ("StatefulSet", "PodDisruptionBudget")
    ]
    selectors += [of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]]
    for spread in pod_of(objects)["spec"].get("topologySpreadConstraints", ()):
        selectors.append(spread["labelSelector"]["matchLabels"])
    for selector in selectors:
        assert {"app.kubernetes.io/name": "keytoll"}.items() <= selector.items() <= labels.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_monitoring_added_to_an_overlay_selects_its_pods_and_their_port(tmp_path: Path, overlay: str) -> None:
    objects = await rendered(with_components(tmp_path, overlay, "monitoring"))
    assert {each["kind"] for each in objects} >= CUSTOM_KINDS
    monitor = of_kind(objects, "PodMonitor")["spec"]
    pod = pod_of(objects)
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"] for each in pod["spec"]["initContainers"] for port in each["ports"]}
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_with_tls_the_certificate_is_mounted_where_envoy_is_told_and_the_services_are_https(
    tmp_path: Path, overlay: str
) -> None:
    folder = with_components(tmp_path, overlay, "tls")
    objects = await rendered(folder)
    envoy = containers_of(pod_of(objects)["spec"])["envoy"]
    told = next(each["value"] for each in envoy["env"] if each["name"] == "KEYTOLL_TLS_DIR")
    assert told in {mount["mountPath"] for mount in envoy["volumeMounts"]}
    services = [each for each in objects if each["kind"] == "Service" and each["spec"].get("clusterIP") != "None"]
    assert {each["spec"]["ports"][0]["port"] for each in services} == {443}
    (tmp_path / "all.yaml").write_text(await run(BIN / "kubectl", "kustomize", folder))
    await run(BIN / "kubernetes-validate", "--strict", "-k", KUBERNETES[0], tmp_path / "all.yaml")


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """A folder with the rules as Prometheus reads them, and their tests."""
    with (tmp_path / "rules.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(rules(), file)
    shutil.copy(MONITORING / "rules_test.yaml", tmp_path)
    return tmp_path


async def test_each_alert_fires_as_its_test_says(groups: Path) -> None:
    await run(BIN / "promtool", "check", "rules", "--lint-fatal", "rules.yaml", cwd=groups)
    await run(BIN / "promtool", "test", "rules", "rules_test.yaml", cwd=groups)
    (tests,) = manifests("monitoring/rules_test.yaml")
    assert {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"]} == set(alerts())


async def test_a_real_prometheus_answers_each_query_of_the_dashboard_from_a_real_keytoll(tmp_path: Path) -> None:
    async with backend() as port:
        pod = Pod(tmp_path, port)
        async with pod.running(), prometheus(pod.ports.metrics, tmp_path) as url:
            key = await pod.new_key()
            async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
                for title, query in dashboard_queries():

                    async def found(query: str = query) -> bool:
                        await ask(client, pod, key["secret"])
                        return bool(await ask_prometheus(client, url, query))

                    print(title)
                    await until(found)
                for rule in alerts().values():
                    await ask_prometheus(client, url, rule["expr"])


async def ask(client: httpx.AsyncClient, pod: Pod, secret: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {secret}"}
    (await client.post(f"{pod.url}/v1/chat/completions", json=body, headers=headers)).raise_for_status()


async def ask_prometheus(client: httpx.AsyncClient, url: str, query: str) -> list[Any]:
    answer = await client.get(f"{url}/api/v1/query", params={"query": query})
    assert answer.status_code == 200, f"{query}: {answer.text}"
    found: list[Any] = answer.json()["data"]["result"]
    return found


@contextlib.asynccontextmanager
async def prometheus(target: int, folder: Path) -> AsyncIterator[str]:
    """Run a Prometheus that scrapes a port with the labels that the PodMonitor gives."""
    port, nothing = Ports.free().data, os.open(os.devnull, os.O_RDONLY)
    static = [{"targets": [f"127.0.0.1:{target}"], "labels": {"namespace": "keytoll", "pod": "keytoll-0"}}]
    config = {
        "scrape_configs": [
            {"job_name": "keytoll", "scrape_interval": "250ms", "scrape_timeout": "250ms", "static_configs": static}
        ]
    }
    (folder / "prometheus.json").write_text(json.dumps(config))

    async def ready() -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(f"http://127.0.0.1:{port}/-/ready")).is_success
        return False

    options = (f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'tsdb'}")
    program = Program(
        name="prometheus",
        command=(str(BIN / "prometheus"), f"--config.file={folder / 'prometheus.json'}", *options),
        cwd=folder,
        log=folder / "prometheus.log",
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
