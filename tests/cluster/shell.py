"""Calls of the command line in processes of their own, where nothing else on the machine is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Shell:
    """Runs `python -m stratacache.cluster` in an environment where no other Ray and no other state is seen."""

    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        hidden = ("RAY_ADDRESS", "RAY_AUTH_MODE", "STRATACACHE_TOKEN", "STRATACACHE_ADDRESS")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"RAY_TMPDIR": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        environment |= {"HOME": str(self.home), "TMPDIR": str(self.home)}
        return subprocess.run(
            [sys.executable, "-m", "stratacache.cluster", *arguments],
            env=environment | self.extra,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result.stdout

    def refused(self, *arguments: str) -> str:
        """The one line on stderr of a call that ends with status 2."""
        result = self.run(*arguments)
        assert result.returncode == 2, (arguments, result.returncode, result.stdout, result.stderr)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("stratacache: ")
        return lines[0]


@contextmanager
def private_shell(extra: dict[str, str] | None = None) -> Iterator[Shell]:
    """One with a private home with a short path."""
    home = Path(tempfile.mkdtemp(prefix="scc-", dir="/tmp"))
    yield Shell(home, extra or {})
    shutil.rmtree(home, ignore_errors=True)
