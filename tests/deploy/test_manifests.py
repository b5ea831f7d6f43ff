"""The manifests: consistent with the trust policy, the network policies and the services."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).with_name("kubectl")
FOLDERS = ["base", "overlays/local"]
SERVICES = {"bitcoin", "web5", "ml", "orchestrator"}
NAME = "app.kubernetes.io/name"


@cache
def rendered(folder: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [KUBECTL, "kustomize", ROOT / "deploy/k8s" / folder],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(YAML(typ="safe", pure=True).load_all(done.stdout))


def of_kind(folder: str, kind: str) -> dict[str, dict[str, Any]]:
    return {
        document["metadata"]["name"]: document
        for document in rendered(folder)
        if document["kind"] == kind
    }


def boundaries() -> set[tuple[str, str]]:
    """Returns the pairs of caller and service that the trust policy connects."""
    trust = YAML(typ="safe", pure=True).load((ROOT / "deploy/k8s/base/trust.yaml").read_text())
    return {
        (boundary["from"], boundary["to"])
        for boundary in trust["boundaries"]
        if boundary["methods"]
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_service_has_its_own_volume(folder: str) -> None:
    stateful = of_kind(folder, "StatefulSet")

    assert stateful.keys() == SERVICES
    for service in stateful.values():
        assert service["spec"]["replicas"] == 1
        assert service["spec"]["volumeClaimTemplates"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_container_drops_all_privileges(folder: str) -> None:
    workloads = of_kind(folder, "StatefulSet") | of_kind(folder, "Deployment")

    for workload in workloads.values():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_service_starts_an_existing_module(folder: str) -> None:
    for name, service in of_kind(folder, "StatefulSet").items():
        (container,) = service["spec"]["template"]["spec"]["containers"]

        assert container["args"] == [f"services.{name}"]
        assert (ROOT / "services" / name / "__main__.py").is_file()


def test_ingress_matches_the_trust_policy() -> None:
    ingress = {
        (peer["podSelector"]["matchLabels"][NAME], name.removeprefix("to-"))
        for name, policy in of_kind("base", "NetworkPolicy").items()
        if name.startswith("to-")
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
    }

    assert ingress == boundaries()


def test_egress_matches_the_trust_policy() -> None:
    egress = {
        (name.removeprefix("from-"), peer["podSelector"]["matchLabels"][NAME])
        for name, policy in of_kind("base", "NetworkPolicy").items()
        if name.startswith("from-")
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
    }

    assert egress == boundaries()


def test_other_traffic_is_denied() -> None:
    default = of_kind("base", "NetworkPolicy")["default-deny"]["spec"]

    assert default == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_orchestrator_reaches_its_peers_by_their_services() -> None:
    (container,) = of_kind("base", "StatefulSet")["orchestrator"]["spec"]["template"]["spec"][
        "containers"
    ]
    peers = next(entry["value"] for entry in container["env"] if entry["name"] == "ANYA_PEERS")

    targets = dict(entry.split("=") for entry in peers.split(","))

    assert targets.keys() == SERVICES - {"orchestrator"}
    for name, target in targets.items():
        service = of_kind("base", "Service")[name]["spec"]
        assert service["clusterIP"] == "None"
        assert target == f"dns:///{name}:{service['ports'][0]['port']}"


def test_services_of_the_local_overlay_export_spans_to_jaeger() -> None:
    for service in of_kind("overlays/local", "StatefulSet").values():
        (container,) = service["spec"]["template"]["spec"]["containers"]
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        labels = service["spec"]["template"]["metadata"]["labels"]

        assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4317"
        assert labels["app.kubernetes.io/part-of"] == "anya-mesh"
