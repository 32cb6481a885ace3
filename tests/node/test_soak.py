"""A quarter of a minute of what `make soak` does for ten minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory by /proc")
def test_memory_is_bounded_under_full_load(tmp_path: Path) -> None:
    """All three levels busy: no wrong value, the disk within its budget, memory within the budgets + 20 %."""
    result = tmp_path / "soak.json"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "15", "--json", str(result)]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=110, check=False)
    assert result.exists(), run.stdout + run.stderr
    figures = json.loads(result.read_text())
    assert figures["wrong_values"] == 0
    assert figures["disk_on"]
    assert figures["disk_bytes"] <= 256 << 20
    assert figures["memory_vs_budget"] <= 1.2, run.stdout
    assert figures["growth"] <= 1.3, run.stdout
    assert figures["hits"]["l1_memory"] > 0
    assert figures["hits"]["l2_compressed"] > 0
    assert figures["demotions"] > 0
    assert figures["removed"]["expired"] > 0
