"""Waiting for a condition with a deadline, for tests that drive real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], object], deadline_s: float = 20.0, what: str = "the condition") -> None:
    """Poll until the condition holds; fails the test when the deadline passes."""
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"{what} did not come true within {deadline_s:g} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
