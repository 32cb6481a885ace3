"""What the checks ask of rendered objects: their pods, ports, references, quantities.

Invariant: pods of a RayCluster are seen as KubeRay makes them, with the labels that it adds and the start command that
it builds from rayStartParams.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Object = dict[str, Any]

QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
FACTORS = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
}
WORKLOADS = ("Deployment", "StatefulSet")


def quantity(text: Any) -> Decimal:
    """A Kubernetes quantity as a number; ValueError when it is none."""
    match = QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    return Decimal(match[1]) * FACTORS[match[2]]


@dataclass(frozen=True)
class PodTemplate:
    """A pod as it will run: where it comes from, its labels and its spec. `claims` are its volumeClaimTemplates."""

    owner: str
    kind: str
    labels: dict[str, str]
    spec: Object
    replicas: int = 1
    claims: tuple[str, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()

    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def container(self) -> Object:
        """The only container of a pod of ours."""
        (one,) = self.spec["containers"]
        return dict(one)


def pods(manifests: list[Object]) -> Iterator[PodTemplate]:
    """Every pod template of a release."""
    for one in manifests:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] in WORKLOADS:
            template = spec["template"]
            claims = tuple(claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", []))
            yield PodTemplate(
                name, one["kind"], template["metadata"]["labels"], template["spec"], spec["replicas"], claims
            )
        elif one["kind"] == "Pod":
            yield PodTemplate(name, "Pod", one["metadata"].get("labels", {}), spec)
        elif one["kind"] == "RayCluster":
            yield from ray_pods(one)


def ray_pods(cluster: Object) -> Iterator[PodTemplate]:
    """The pods of a RayCluster, labelled as KubeRay's pod.go does."""
    name = cluster["metadata"]["name"]
    groups = [("head", "headgroup", 1, cluster["spec"]["headGroupSpec"])]
    workers = cluster["spec"].get("workerGroupSpecs", [])
    groups += [("worker", group["groupName"], group.get("replicas", 0), group) for group in workers]
    for kind, group_name, replicas, group in groups:
        own = group["template"].get("metadata", {}).get("labels", {})
        fixed = {"ray.io/cluster": name, "ray.io/node-type": kind, "ray.io/group": group_name}
        added = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/created-by": "kuberay-operator"}
        yield PodTemplate(
            f"RayCluster/{name}/{group_name}",
            "RayCluster",
            {**added, **own, **fixed},
            group["template"]["spec"],
            replicas,
        )


def find(manifests: list[Object], kind: str, name: str | None = None) -> Object:
    """The only object of that kind (and name)."""
    (one,) = [o for o in manifests if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    return one


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a selector of labels matches."""
    return all(labels.get(key) == value for key, value in selector.items())


def ports(container: Object) -> dict[str, int]:
    """The container's named ports."""
    return {port.get("name", str(port["containerPort"])): port["containerPort"] for port in container.get("ports", [])}


def probes(container: Object) -> Iterator[tuple[str, Object]]:
    """Its probes by name."""
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if name in container:
            yield name, container[name]


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value within a value, with its path."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, f"{path}[{index}]")
