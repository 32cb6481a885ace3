"""Stopping a process for a while (SIGSTOP), in tests that need it to do nothing from then on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

STOP_DEADLINE_S = 10.0


def stop(pid: int) -> None:
    """SIGSTOP, and wait until every thread stands still.

    A stop reaches threads one by one, after `kill` has returned: of a busy process some go on for milliseconds, and
    may still answer what is sent to them then.
    """
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + STOP_DEADLINE_S
    while thread_states(pid) - set("TZX"):
        assert time.monotonic() < end, f"process {pid} did not stop within {STOP_DEADLINE_S:g} s"
        time.sleep(0.001)


def thread_states(pid: int) -> set[str]:
    """The states of a process's threads, as proc(5) writes them; empty when it is gone."""
    states = set()
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            states.add(thread.read_text().rpartition(")")[2].split()[0])
    return states
