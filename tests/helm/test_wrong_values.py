"""Wrong values are refused, with the name of the value in Helm's message: no half-right release is ever rendered."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helm.tools import Helm

WRONG = sorted((Path(__file__).parent / "wrong").glob("*.yaml"))


def test_there_are_enough() -> None:
    """A glob that finds nothing would pass everything."""
    assert len(WRONG) >= 15


def test_refused(helm: Helm) -> None:
    """Each file of wrong/ is refused by each Helm, and the message names what its first line says."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Helm runs in processes of its own
        answers = dict(zip(WRONG, pool.map(helm.template, WRONG), strict=True))
    problems = []
    for path, done in answers.items():
        named = re.match(r"# refused, naming: (\S+)\n", path.read_text())
        assert named, f"{path} does not say which key the message should name"
        if done.returncode == 0:
            problems.append(f"{path.stem}: Helm rendered it")
        elif not names(done.stderr, named[1]):
            problems.append(f"{path.stem}: {named[1]} is not named in: {done.stderr}")
    assert problems == []


def names(message: str, key: str) -> bool:
    """Whether the message names the key, as Helm 3 does (a.b.c) or as Helm 4 does (/a/b/c)."""
    return key in message or "/" + key.replace(".", "/") in message


def test_a_refusal_says_the_way_out(helm4: Helm) -> None:
    """A contradiction's message is one sentence that names both sides and what to change."""
    done = helm4.template(sets=("cache.l1BytesMax=4Gi",))
    assert "raise the limit, or lower cache.l1BytesMax" in done.stderr
    assert "2Gi" in done.stderr
    assert "5028 MiB" in done.stderr
