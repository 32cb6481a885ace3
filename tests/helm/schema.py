"""Strict validation of rendered objects: nothing unknown, nothing of the wrong type.

Built-in kinds are checked by Kubernetes' published schemas; custom kinds by the small closed schemas beside this file,
and a RayCluster also by KubeRay's own definition where KUBERAY_CRD (or ../shared/kuberay) has it. Pod templates within
a RayCluster are checked as Pods. A kind without a schema is a fault.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from tests.helm.objects import Object

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
# The package reads its files anew for every object; they do not change.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)
CUSTOM = ("RayCluster", "ServiceMonitor", "PrometheusRule")


def problems(manifests: list[Object], kube: str) -> list[str]:
    """What an API server of that Kubernetes version would refuse."""
    return [f"{one['kind']}/{one['metadata']['name']}: {line}" for one in manifests for line in check(one, kube)]


def check(one: Object, kube: str) -> Iterator[str]:
    """The problems of one object."""
    if one["kind"] not in CUSTOM:
        yield from builtin(one, kube)
        return
    yield from (describe(error) for error in custom(one["kind"]).iter_errors(one))
    if one["kind"] == "RayCluster":
        crd = kuberay_crd()
        if crd is not None:
            yield from (describe(error) for error in crd.iter_errors(without_nulls(one)))
        for group in [one["spec"]["headGroupSpec"], *one["spec"]["workerGroupSpecs"]]:
            template = {
                "metadata": {"name": "pod", **group["template"].get("metadata", {})},
                "spec": group["template"]["spec"],
            }
            yield from builtin({"apiVersion": "v1", "kind": "Pod", **template}, kube)


def builtin(one: Object, kube: str) -> Iterator[str]:
    """The problem that Kubernetes' schema has with an object; an unknown kind is one."""
    try:
        kubernetes_validate.validate(one, kube, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield error.message


def describe(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(map(str, error.path))}: {error.message[:200]}"


@cache
def custom(kind: str) -> jsonschema.Draft202012Validator:
    """The validator of one of the small schemas."""
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{kind.lower()}.json").read_text()))


@cache
def kuberay_crd() -> jsonschema.Draft202012Validator | None:
    """KubeRay's own definition of a RayCluster, where it can be had."""
    default = ROOT.parent / "shared" / "kuberay" / "ray.io_rayclusters.v1.crd.json"
    path = Path(os.environ.get("KUBERAY_CRD", default))
    if not path.exists():
        return None
    (version,) = [v for v in json.loads(path.read_text())["spec"]["versions"] if v["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def closed(node: Any) -> Any:
    """A structural schema as the API server applies it with strict field validation: unknown fields are refused."""
    if isinstance(node, list):
        return [closed(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    out = {key: closed(value) for key, value in node.items() if key not in ("default", "description", "example")}
    if "properties" in node:
        out["properties"] = {name: closed(inner) for name, inner in node["properties"].items()}
        if "additionalProperties" not in out and not out.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
        required = [name for name in node.get("required", []) if "default" not in node["properties"].get(name, {})]
        out.pop("required", None)
        if required:
            out["required"] = required
    if out.get("nullable") and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


def without_nulls(value: Any) -> Any:
    """The API server drops nulls of custom resources before it validates them."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value
