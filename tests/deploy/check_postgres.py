"""The overlay for many replicas on PostgreSQL: numbers that hang together, and what must not be in a manifest.

Not a part of `make test`, but of `make deploy-check`, since it needs kubectl.
"""

import time
from pathlib import Path
from typing import Any

import pytest
from postgres_server import postgres_server
from proxy import proxy_to

from deploy.pod import DEPLOY, Pod, backend
from deploy.queries import operators_guide
from deploy.rendering import containers_of, of_kind, pod_of, rendered
from deploy.test_manifests import ENVOYS_END_S
from deploy.test_postgres_pod import ask
from keytoll.store.postgres.database import BOUNDS

KEYTOLLS_END_S = 40
MAX_CONNECTIONS, RESERVED_CONNECTIONS = 100, 3
"""Of a PostgreSQL whose operator didn't say otherwise; the latter are for superusers."""


@pytest.fixture(scope="module")
async def objects() -> list[Any]:
    """What the overlay makes."""
    return await rendered(DEPLOY / "overlays/postgres")


def variables(container: Any) -> dict[str, Any]:
    return {each["name"]: each for each in container["env"]}


async def test_the_stores_url_comes_from_a_secret_that_no_manifest_holds(objects: list[Any]) -> None:
    keytoll = containers_of(pod_of(objects)["spec"])["keytoll"]
    assert variables(keytoll)["KEYTOLL_STORE"] == {
        "name": "KEYTOLL_STORE",
        "valueFrom": {"secretKeyRef": {"name": "keytoll-store", "key": "url"}},
    }
    assert "Secret" not in {each["kind"] for each in objects}
    assert "postgresql://" not in str(objects)


async def test_envoys_container_has_nothing_of_the_store(objects: list[Any]) -> None:
    envoy = containers_of(pod_of(objects)["spec"])["envoy"]
    assert "KEYTOLL_STORE" not in variables(envoy)
    assert "store" not in {mount["name"] for mount in envoy["volumeMounts"]}


async def test_the_number_of_replicas_is_the_autoscalers_alone(objects: list[Any]) -> None:
    """A number in the manifest would be put back by each apply."""
    pods, scaler = of_kind(objects, "StatefulSet"), of_kind(objects, "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in pods["spec"]
    assert scaler["scaleTargetRef"] == {key: pods[key] for key in ("apiVersion", "kind")} | {"name": "keytoll"}
    assert 3 <= scaler["minReplicas"] < scaler["maxReplicas"]


async def test_the_most_replicas_don_t_take_more_connections_than_postgresql_has(objects: list[Any]) -> None:
    replicas = of_kind(objects, "HorizontalPodAutoscaler")["spec"]["maxReplicas"]
    most = replicas * (BOUNDS.connections + 1)
    assert most <= MAX_CONNECTIONS - RESERVED_CONNECTIONS
    assert f"A replica takes up to {BOUNDS.connections} connections to" in operators_guide()
    assert f"replicas take up to {most}, where" in operators_guide()


async def test_what_is_scaled_by_is_a_container_that_requests_it(objects: list[Any]) -> None:
    containers = containers_of(pod_of(objects)["spec"])
    for metric in of_kind(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]:
        asked = metric["containerResource"]
        assert asked["name"] in containers[asked["container"]]["resources"]["requests"]


async def test_pods_go_one_at_a_time_and_no_faster_than_each_may_take_to_end(objects: list[Any]) -> None:
    (down,) = of_kind(objects, "HorizontalPodAutoscaler")["spec"]["behavior"]["scaleDown"]["policies"]
    assert (down["type"], down["value"]) == ("Pods", 1)
    assert down["periodSeconds"] > pod_of(objects)["spec"]["terminationGracePeriodSeconds"]
    assert of_kind(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert of_kind(objects, "StatefulSet")["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1}


async def test_drain_end_of_envoy_and_settlement_fit_into_the_grace_period(objects: list[Any]) -> None:
    spec = pod_of(objects)["spec"]
    drain_s = int(variables(containers_of(spec)["envoy"])["KEYTOLL_DRAIN_WITHIN_S"]["value"])
    assert drain_s + ENVOYS_END_S + KEYTOLLS_END_S <= spec["terminationGracePeriodSeconds"]


async def test_a_claim_outlives_its_pod_and_the_set(objects: list[Any]) -> None:
    """What a pod that was killed had not settled is on its claim alone."""
    policy = of_kind(objects, "StatefulSet")["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert policy == {"whenDeleted": "Retain", "whenScaled": "Retain"}


async def test_a_segment_and_the_floor_are_each_below_half_of_the_claim(objects: list[Any]) -> None:
    (claim,) = of_kind(objects, "StatefulSet")["spec"]["volumeClaimTemplates"]
    claim_bytes = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30
    given = variables(containers_of(pod_of(objects)["spec"])["keytoll"])
    for name in ("KEYTOLL_JOURNAL_SEGMENT_BYTES", "KEYTOLL_DISK_FLOOR_BYTES"):
        assert int(given[name]["value"]) < claim_bytes / 2


async def test_pods_are_spread_over_zones_and_nodes_where_that_leaves_none_waiting(objects: list[Any]) -> None:
    spread = pod_of(objects)["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}


async def test_the_database_can_be_reached_also_when_the_rule_for_the_backends_is_narrowed(objects: list[Any]) -> None:
    egress = of_kind(objects, "NetworkPolicy")["spec"]["egress"]
    assert {"ports": [{"port": 5432}]} in egress


async def test_a_pod_that_can_t_admit_leaves_its_services_after_it_had_time_to_get_over_an_outage(
    objects: list[Any],
) -> None:
    probe = containers_of(pod_of(objects)["spec"])["keytoll"]["readinessProbe"]
    assert probe["httpGet"]["path"] == "/readyz"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60


async def test_a_pod_whose_database_falls_silent_ends_in_time_and_the_next_one_settles_what_it_left(
    tmp_path: Path,
) -> None:
    """That is the longest that Keytoll takes: each of its last calls waits as long as a call may."""
    with postgres_server() as server:
        name = (await server.new_database(empty=True)).rpartition("/")[2]
        async with backend() as port, proxy_to(server.port) as proxy:
            silenced = {"KEYTOLL_DRAIN_NOTICE_S": "0", "KEYTOLL_STORE": server.url(name, port=proxy.port)}
            pod = Pod(tmp_path, port, silenced)
            async with pod.running() as running:
                key = await pod.new_key()
                await ask(pod, key["secret"], 1)
                await pod.charged(1)
                proxy.fall_silent()
                await ask(pod, key["secret"], 1)
                await running.envoy.stop()
                began_s = time.monotonic()
                await running.keytoll.stop()
                assert time.monotonic() - began_s < KEYTOLLS_END_S
                proxy.speak()
            async with pod.running():
                assert len(await pod.charged(2)) == 2
