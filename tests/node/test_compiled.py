"""The hot modules, compiled and as plain Python: the same calls give the same answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stratacache.node import engine

ROOT = Path(__file__).parents[2]


def tell(*words: str) -> list[str]:
    """How the node ran in a process of its own, and the digest of what it answered."""
    command = [sys.executable, "-m", "tests.node.story", *words]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout.split()


def test_compiled_and_plain_modules_answer_alike() -> None:
    """Same seed, same calls, every policy: same answers, evictions and numbers."""
    if engine.__file__.endswith(".py"):
        pytest.skip("the hot modules are not compiled here: there is no C compiler, or STRATACACHE_COMPILE is 0")
    (how, digest), (how_plain, digest_plain) = tell(), tell("plain")
    assert (how, how_plain) == ("compiled", "plain")
    assert digest == digest_plain
