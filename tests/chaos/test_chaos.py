"""The short share of the chaos run, and proof that its oracle can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.oracle import fault_of, value_of


def test_the_oracle_sees_what_is_wrong() -> None:
    """An old version, another key's value, and a value that is not whole are each a fault; what is right is none."""
    value = value_of("a", 3)
    assert fault_of("a", 3, value) is None
    assert fault_of("a", 2, value) is None
    assert "I1/I2" in str(fault_of("a", 4, value))
    assert "I3" in str(fault_of("b", 0, value))
    assert "I3" in str(fault_of("a", 0, {**value, "pad": value["pad"] + b"x"}))
    assert "I3" in str(fault_of("a", 0, "something else"))


@pytest.mark.ray
@pytest.mark.xdist_group("own-ray")
@pytest.mark.timeout(180)
def test_nothing_wrong_is_read_while_processes_die(tmp_path: Path, own_ray: dict[str, str]) -> None:
    """A shard killed, a shard stopped beyond its lease, the coordinator killed: under load, no read is stale."""
    target = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.chaos", "--once", "--raylets", "2", "--shards", "3", "--lease", "2"]
    command += ["--faults", "kill_shard,stop_shard,kill_coordinator", "--seed", "2", "--json", str(target)]
    done = subprocess.run(command, env=own_ray, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(target.read_text())
    assert report["violations"] == 0
    assert report["hits"] > 100
    assert report["coordinator_on_head"]
    faults = {"kill_shard": 1, "stop_shard": 1, "stopped beyond its lease": 1, "kill_coordinator": 1}
    assert faults.items() <= report["faults"].items()
