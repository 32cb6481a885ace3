"""The public types are of use: right use passes mypy strict, each wrong use is found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SAMPLES = Path(__file__).parent / "typing_samples"


def test_right_use_passes_and_each_wrong_one_is_found() -> None:
    """One run of mypy over both files: no complaint about the one, one about every marked line of the other."""
    out = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(SAMPLES / "use.py"), str(SAMPLES / "misuse.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    complaints = {(name, int(line)) for name, line in re.findall(r"(\w+)\.py:(\d+): error", out)}
    marked = {
        ("misuse", number)
        for number, line in enumerate((SAMPLES / "misuse.py").read_text().splitlines(), 1)
        if "# wrong" in line
    }
    assert complaints == marked, out
