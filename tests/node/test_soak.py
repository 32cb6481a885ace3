"""Thirty seconds of what `make soak` does for ten minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory by /proc")
def test_memory_stays_within_the_budgets_under_full_load(tmp_path: Path) -> None:
    """All three levels busy: memory under budget + 20 %, no growth, no wrong value, the disk within its budget."""
    result = tmp_path / "soak.json"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "30", "--json", str(result)]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=110, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(result.read_text())
    assert all(hits > 0 for hits in figures["hits"].values()), "a level was not busy"
    assert figures["demotions"] > 0
    assert figures["removed"]["expired"] > 0
