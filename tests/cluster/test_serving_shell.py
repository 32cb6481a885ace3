"""The shell of a shard's serving decisions in a process of its own, without Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stratacache.cluster.home import runtime_dir

FAILING_STEP = """
import asyncio, sys
from pathlib import Path
from stratacache.client.view import ShardInfo, View
from stratacache.cluster import ClusterConfig, messages as m
from stratacache.cluster.serving_shell import ServingShell
from stratacache.cluster.shard_node import ShardSpec

async def main(data_dir, uid, failing):
    config = ClusterConfig(shards=1, uid=uid, data_dir=data_dir, metrics_port=None, l3_bytes_max=1 << 20)
    spec = ShardSpec(config=config, shard="shard-0", incarnation=1, host="127.0.0.1", port=0, node="", pinned=True)
    shell = ServingShell(spec)
    await shell.node.open()
    if failing == "acting":
        (shell.node.home.path / "state.json" / "x").mkdir(parents=True)  # can't be replaced, nor removed
    view = View(epoch=1, cluster="c", replicas=1, shards=(ShardInfo(id="shard-0", host="h", port=1, incarnation="1"),))
    prepare = m.Prepare(shard="shard-0", incarnation=1, term=1, view=view, keep=False)
    if failing == "deciding":
        object.__setattr__(prepare, "view", "no view")
    for _ in range(2):
        try:
            print("vouched", await shell.deliver(prepare))
        except Exception as error:
            print("failed", error)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("failing", ["acting", "deciding"])
def test_a_shard_vouches_for_no_step_that_failed(tmp_path: Path, failing: str) -> None:
    """It ends: its decisions took the step for done, and would vouch for it when the coordinator asks again."""
    uid = f"test-{os.getpid()}"
    command = [sys.executable, "-c", FAILING_STEP, str(tmp_path), uid, failing]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    finally:
        shutil.rmtree(runtime_dir(uid), ignore_errors=True)
    assert done.stdout == ""
    assert done.returncode == 1, done.stderr
    assert "shard-0 ends: a step of a view change failed" in done.stderr
