"""Numbers of the manifests that hang together."""

import tomllib
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.pod import DEPLOY, PROJECT, container, manifests, stateful_set
from keytoll.catalog import load_catalog
from keytoll.settings import MIB

ENVOYS_END_S = 5
SETTLEMENT_S = 15
GIB = 1024 * MIB


def pod() -> Any:
    return stateful_set()["spec"]["template"]["spec"]


def variable(name: str, *, of: str) -> int:
    return next(int(each["value"]) for each in container(of)["env"] if each["name"] == name)


def claim_bytes() -> int:
    (claim,) = stateful_set()["spec"]["volumeClaimTemplates"]
    return int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * GIB


def test_drain_end_of_envoy_and_settlement_fit_into_the_grace_period() -> None:
    drain_s = variable("KEYTOLL_DRAIN_WITHIN_S", of="envoy")
    assert drain_s + ENVOYS_END_S + SETTLEMENT_S <= pod()["terminationGracePeriodSeconds"]
    assert variable("KEYTOLL_DRAIN_NOTICE_S", of="envoy") < drain_s


def test_a_segment_and_the_floor_are_each_below_half_of_the_claim() -> None:
    for name in ("KEYTOLL_JOURNAL_SEGMENT_BYTES", "KEYTOLL_DISK_FLOOR_BYTES"):
        assert variable(name, of="keytoll") < claim_bytes() / 2


def test_keytoll_starts_before_envoy_and_stops_after_it() -> None:
    (keytoll,) = pod()["initContainers"]
    assert (keytoll["name"], keytoll["restartPolicy"]) == ("keytoll", "Always")
    assert keytoll["startupProbe"]["httpGet"]["port"] in {port["name"] for port in keytoll["ports"]}


def test_every_container_is_restricted_and_every_mount_has_its_volume() -> None:
    volumes = {each["name"] for each in [*pod()["volumes"], *({"name": "state"},)]}
    for each in (container("keytoll"), container("envoy")):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes
    assert pod()["securityContext"]["runAsNonRoot"] is True


def test_both_containers_see_one_journal_and_only_keytoll_the_ledger() -> None:
    mounts = {
        name: {each["mountPath"]: each.get("subPath") for each in container(name)["volumeMounts"]}
        for name in ("keytoll", "envoy")
    }
    assert mounts["keytoll"]["/run/keytoll/journal"] == mounts["envoy"]["/run/keytoll/journal"] == "journal"
    assert "keytoll" not in mounts["envoy"].values()


def test_the_overlays_catalog_is_one() -> None:
    assert load_catalog(DEPLOY / "overlays/sqlite/keytoll.yaml").models


def test_services_name_ports_that_the_pod_has() -> None:
    named = {port["name"] for name in ("keytoll", "envoy") for port in container(name)["ports"]}
    targets = {port["targetPort"] for service in manifests("base/services.yaml") for port in service["spec"]["ports"]}
    assert targets == named


def test_the_image_has_each_dependency_at_a_version_that_keytoll_takes() -> None:
    """Where this fails, deploy/constraints.txt says at its head how it is renewed."""
    lines = (DEPLOY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    requirements = [Requirement(text) for text in wanted]
    assert [
        str(each) for each in requirements if versions.get(canonicalize_name(each.name), "") not in each.specifier
    ] == []
