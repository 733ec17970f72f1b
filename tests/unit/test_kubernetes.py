"""The Kubernetes manifests fit the code: settings, probes, names, limits."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import yaml

from consumer.service import DRAIN_S, STUCK_AFTER_S
from consumer.topics import DEFAULT_PARTITIONS, Topics
from schemas.connection import ConnectionSet
from schemas.connection_file import assemble
from tests.support.deploy_files import DEPLOY, DOCKERFILE, ROOT, SERVICES, modules, named, settings_from

KUBERNETES = [
    document
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text("utf-8"))
]


def of_kind(kind: str) -> dict[str, dict]:
    return {document["metadata"]["name"]: document for document in KUBERNETES if document["kind"] == kind}


def pods() -> Iterator[tuple[str, dict]]:
    for kind in ("Deployment", "Job"):
        for name, document in of_kind(kind).items():
            yield name, document["spec"]["template"]["spec"]


def environment_of(container: dict) -> dict[str, str]:
    maps = of_kind("ConfigMap")
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]["data"]
    return found | {item["name"]: item["value"] for item in container.get("env", ())}


def test_the_kustomization_lists_every_file():
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    (kustomization,) = [document for document in KUBERNETES if document["kind"] == "Kustomization"]
    assert set(kustomization["resources"]) == files - {"kustomization.yaml"}


@pytest.mark.parametrize(("name", "pod"), [pytest.param(name, pod, id=name) for name, pod in pods()])
def test_a_pod_has_settings_that_exist_and_no_more_rights_than_it_needs(
    name: str, pod: dict, monkeypatch: pytest.MonkeyPatch
):
    (container,) = pod["containers"]
    settings = settings_from(environment_of(container), monkeypatch)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert settings.connections in mounts
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    assert all(find_spec(module) for module in modules(container["command"]))
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}:" in DOCKERFILE
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (kustomization,) = [document for document in KUBERNETES if document["kind"] == "Kustomization"]
    assert container["image"] == kustomization["images"][0]["name"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_deployment_is_probed_drained_and_disrupted_gently(name: str, monkeypatch: pytest.MonkeyPatch):
    spec = of_kind("Deployment")[named(name)]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == settings_from(environment_of(container), monkeypatch).http_port
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
        paths[probe] = container[probe]["httpGet"]["path"]
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    liveness = container["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] < STUCK_AFTER_S
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S
    labels = spec["template"]["metadata"]["labels"]
    selectors = [spec["selector"], of_kind("PodDisruptionBudget")[named(name)]["spec"]["selector"]]
    assert all(selector["matchLabels"].items() <= labels.items() for selector in selectors)
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 1, (
        "an idle ninth worker would block a rollout"
    )


@pytest.mark.parametrize("name", ["push", "collect"])
def test_keda_scales_by_the_group_that_the_service_joins(name: str):
    spec = of_kind("ScaledObject")[named(name)]["spec"]
    (trigger,) = spec["triggers"]
    assert spec["scaleTargetRef"]["name"] in of_kind("Deployment")
    assert "replicas" not in of_kind("Deployment")[named(name)]["spec"], "two would set the number"
    assert spec["minReplicaCount"] == 1
    assert spec["maxReplicaCount"] <= DEFAULT_PARTITIONS
    assert trigger["metadata"]["topic"] == Topics().referrals
    assert trigger["metadata"]["consumerGroup"] == named(name)
    assert Topics().group(name) == named(name), "the group is called otherwise"
    assert "group=ground.topics.group(name)" in (ROOT / "consumer/run.py").read_text(), "or another is joined"
    settings = of_kind("ConfigMap")["referral-settings"]["data"]
    assert trigger["metadata"]["bootstrapServers"] == settings["REFERRALS_KAFKA"]


def test_the_cluster_scrapes_every_service_under_its_job():
    spec = of_kind("PodMonitor")["referral-delivery"]["spec"]
    (expression,) = spec["selector"]["matchExpressions"]
    assert expression["key"] == spec["jobLabel"]
    assert set(expression["values"]) == {named(name) for name in SERVICES} == set(of_kind("Deployment"))


def test_the_clusters_connections_are_valid():
    found = assemble(sorted(of_kind("ConfigMap")["referral-connections"]["data"].items()))
    assert isinstance(found, ConnectionSet), "\n".join(map(str, found))
