"""Every file in examples/ runs to its end and says what it is meant to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.servers import address, running

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES_MAX = 100
WITH_RAY = {
    "batch_embedding": ["first run: 1000 rows", "second run: 1000 rows", "400 for 1000 rows"],
    "feature_pipeline": ["entries: 16", "removed features of 32 bins: 8"],
    "rag_ingestion": ["embedding 30 chunks with minilm-1", "doc-3 changed: 5 chunks removed", "results: 30 removed"],
    "serve_endpoint": ["40 answers, the first: FR: SENTENCE 0", "translations in the cache: 5"],
}


def run(name: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout


def test_all_are_run_and_short() -> None:
    """A new example gets a test; each fits on two screens."""
    files = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert set(files) == {*WITH_RAY, "embedded", "plain_service"}
    assert max(files.values()) < LINES_MAX


def test_embedded(tmp_path: Path) -> None:
    """The second run on the same directory computes nothing."""
    assert run("embedded", str(tmp_path)).strip() == "20 hits, 11 misses, 11 computed"
    assert run("embedded", str(tmp_path)).strip() == "31 hits, 0 misses, 0 computed"


def test_plain_service() -> None:
    """Against a node in a process of its own."""
    with running(1) as nodes:
        output = run("plain_service", address(nodes))
    assert output.splitlines() == [
        "40 answers, 2 computed",
        "an unknown customer asked for three times, looked up 1 time(s)",
        "removed 2 answers about ada",
    ]


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("name", sorted(WITH_RAY))
def test_with_ray(name: str, ray_session: str) -> None:
    """On a real Ray cluster: that of the tests, which the example finds as it would find yours."""
    output = run(name, RAY_ADDRESS=ray_session)
    for line in WITH_RAY[name]:
        assert line in output
