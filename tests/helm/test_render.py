"""The chart lints, renders, and what it renders is what Kubernetes and KubeRay accept and can run."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest

from tests.helm.cases import FILES, VARIATIONS
from tests.helm.schema import problems
from tests.helm.semantics import faults
from tests.helm.tools import CHART, Helm, load

KUBERNETES = tuple(f"1.{minor}" for minor in range(28, 37))


@pytest.mark.parametrize("values", FILES, ids=lambda path: path.stem)
def test_lint_strict(helm: Helm, values: Path) -> None:
    """Helm's own linter, strict, has nothing to say about any complete values file."""
    done = helm.run("lint", "--strict", helm.chart, "-f", values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("kube", KUBERNETES)
def test_examples_are_valid_in_every_kubernetes(helm4: Helm, kube: str) -> None:
    """The complete examples pass the strict schemas of each Kubernetes version, and KubeRay's definition."""
    for values in FILES:
        assert problems(helm4.manifests(values, kube=f"{kube}.0"), kube) == []


@pytest.mark.parametrize("name", VARIATIONS)
def test_variations_are_valid(helm4: Helm, name: str) -> None:
    """Each feature by itself gives valid objects, in the oldest and the newest Kubernetes, that also make sense."""
    manifests = helm4.manifests(sets=VARIATIONS[name])
    for kube in (KUBERNETES[0], KUBERNETES[-1]):
        assert problems(manifests, kube) == []
    assert faults(manifests) == []


@pytest.mark.parametrize("values", FILES, ids=lambda path: path.stem)
def test_examples_make_sense(helm: Helm, values: Path) -> None:
    """Selectors, ports, volumes, references, sizes: what the schemas do not see is right too, with both engines."""
    assert faults(helm.manifests(values)) == []


@pytest.mark.parametrize("values", FILES, ids=lambda path: path.stem)
def test_both_engines_render_the_same(values: Path, helm: Helm, helm4: Helm) -> None:
    """Helm 3 and Helm 4 agree on every object but for the generated tokens."""
    assert no_tokens(load_text(helm, values)) == no_tokens(load_text(helm4, values))


def load_text(helm: Helm, values: Path) -> str:
    documents = load(helm.template(values).stdout)
    return "\n".join(sorted(f"{one['kind']} {one['metadata']['name']} {one!r}" for one in documents))


def no_tokens(text: str) -> str:
    return re.sub(r"((?:auth_)?token'?: '?)[A-Za-z0-9+/=]{40,}", r"\1...", text)


@pytest.mark.parametrize("values", FILES, ids=lambda path: path.stem)
def test_rendering_is_deterministic(helm: Helm, values: Path) -> None:
    """Two runs give the same bytes, but for the generated tokens."""
    first, second = helm.template(values).stdout, helm.template(values).stdout
    assert no_tokens(first) == no_tokens(second)


def test_generated_tokens_are_fresh_and_long(helm: Helm) -> None:
    """Each installation gets tokens of its own, of 40 random characters, and the two differ."""
    secrets = [one for _ in range(2) for one in load(helm.template().stdout) if one["kind"] == "Secret"]
    tokens = [secret["data"][key] for secret in secrets for key in ("token", "auth_token")]
    assert len(set(tokens)) == 4
    assert all(len(token) >= 53 for token in tokens)


def test_package(helm: Helm, tmp_path: Path) -> None:
    """`helm package` makes an archive that renders the same as the directory, without the examples in it."""
    done = helm.run("package", helm.chart, "-d", tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("stratacache-*.tgz")
    with tarfile.open(archive) as content:
        names = content.getnames()
    assert "stratacache/values.schema.json" in names
    assert not [name for name in names if "/ci/" in name]
    packed = Helm(helm.binary, chart=archive).template(FILES[0])
    assert packed.returncode == 0, packed.stderr
    assert no_tokens(packed.stdout) == no_tokens(helm.template(FILES[0]).stdout)


def test_the_chart_states_the_packages_version() -> None:
    """Chart.yaml's appVersion is the version of the Python package."""
    version = re.search(r'^version = "(.*)"', (CHART.parents[1] / "pyproject.toml").read_text(), re.MULTILINE)
    chart = re.search(r'^appVersion: "(.*)"', (CHART / "Chart.yaml").read_text(), re.MULTILINE)
    assert version
    assert chart
    assert version[1] == chart[1]
