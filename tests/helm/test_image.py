"""The image: what its Dockerfile says, and its build replayed in a clean environment."""

from __future__ import annotations

import json
import os
import re

import pytest
import yaml

from tests.helm.image import ROOT, context, may_isolate, replay, stages
from tests.helm.tools import CHART
from tests.standalone.kubelet import free_port


def test_the_final_stage_is_small_and_unprivileged() -> None:
    """Built where a compiler is, run on the slim base of the same Python; a numeric user that is not root."""
    arguments, (build, final) = stages()
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])
    assert build.base == "${BUILD_IMAGE} AS build"
    assert arguments["PYTHON_IMAGE"].replace("-slim", "") == arguments["BUILD_IMAGE"]
    assert final.base == "${PYTHON_IMAGE}"
    assert not re.search(r"apt|gcc|build-essential|pip ", " ".join(final.all("RUN")))
    assert final.all("USER") == ["1000:1000"]
    assert json.loads(final.all("ENTRYPOINT")[0]) == ["stratacache"]
    assert "stratacache-healthcheck" in final.all("HEALTHCHECK")[0]
    assert final.all("COPY") == ["--from=build /opt/stratacache /opt/stratacache"]


def test_the_image_and_the_chart_agree() -> None:
    """Ray's version, the user and the ports of the image are those of the chart's values."""
    arguments, (_, final) = stages()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert arguments["RAY_VERSION"] == values["ray"]["version"]
    context_ = values["podSecurityContext"]
    assert final.all("USER") == [f"{context_['runAsUser']}:{context_['runAsGroup']}"]
    assert final.all("EXPOSE") == ["6380 8080"]


def test_the_build_context_has_what_is_copied() -> None:
    """.dockerignore lets in every source that the build stage copies."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for text in stages()[1][0].all("COPY") for source in text.split()[:-1]}
    assert copied == allowed


@pytest.mark.timeout(180)
def test_the_build_replays_and_its_entry_points_run() -> None:
    """A clean environment takes the build's steps; then a node serves, as nobody on a read-only root where that can be.

    The dependencies come from the present environment; `make helm-image` installs them all.
    """
    isolated = may_isolate()
    said = replay((free_port(), free_port()), full=False, isolated=isolated).splitlines()
    assert f"user {1000 if isolated else os.getuid()}" in said
    if isolated:
        assert "root read-only" in said
    assert any(line.startswith("stratacache 0.") for line in said)
    assert "plain" in said, "what is replayed here is not compiled, to be quick"
    order = [
        line for line in said if line in ("commands there", "not healthy yet", "healthy too early", "healthy", "hello")
    ]
    assert order == ["commands there", "not healthy yet", "healthy", "hello"]


def test_the_context_is_enough(tmp_path: object) -> None:
    """The context holds the packages that pyproject.toml lists, so the image has every module."""
    from pathlib import Path

    folder = Path(str(tmp_path))
    context(folder)
    for package in ("node", "client", "cluster"):
        here = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert here == {path.relative_to(folder) for path in (folder / package).rglob("*.py")}
