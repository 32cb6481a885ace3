"""What `up` remembers of a cluster that it has started, and what `down` ends by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stratacache.cluster.local_ray import RayHead, end_head
from stratacache.cluster.state import ClusterState, forget_state, known_states, load_state, save_state
from tests.cluster.waiting import is_alive, wait_until


def test_state_files_are_private_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold the token."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    head = RayHead(pid=1, started="x:1", address="127.0.0.1:1", log="/l")
    state = ClusterState(name="c", ray_address="a:1", head=head, token="secret", endpoints={"shard-0": "h:1"})
    save_state(state)
    assert load_state("c") == state
    assert known_states() == [state]
    assert (tmp_path / "stratacache" / "c.json").stat().st_mode & 0o777 == 0o600
    forget_state("c")
    assert load_state("c") is None


def test_a_process_that_only_has_the_old_number_is_not_ended() -> None:
    """Process ids come back: the start time must agree too."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        end_head(RayHead(pid=sleeper.pid, started="another-boot:1", address="127.0.0.1:1", log=""))
        assert is_alive(sleeper.pid)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_session_is_ended_with_all_its_processes() -> None:
    """Children, also in process groups of their own, go with the leader; others stay."""
    from stratacache.cluster import local_ray

    code = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], process_group=0);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    leader.stdout.close()
    mark = local_ray._start_mark(leader.pid)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local_ray, "END_GRACE_S", 0.2)
            end_head(RayHead(pid=leader.pid, started=mark, address="127.0.0.1:1", log=""))
        wait_until(lambda: not is_alive(child), 5)
        assert not is_alive(leader.pid)
        assert is_alive(other.pid)
    finally:
        other.kill()
        other.wait()
