"""Wrong values are refused, with the name of the value in Helm's message: no half-right release is ever rendered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helm.tools import Helm

WRONG = sorted((Path(__file__).parent / "wrong").glob("*.yaml"))


def test_there_are_enough() -> None:
    """A glob that finds nothing would pass everything."""
    assert len(WRONG) >= 15


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_refused(helm: Helm, path: Path) -> None:
    """Each file of wrong/ is refused, and the message names what its first line says."""
    named = re.match(r"# refused, naming: (\S+)\n", path.read_text())
    assert named, f"{path} does not say which key the message should name"
    done = helm.template(path)
    assert done.returncode != 0, "Helm rendered it"
    assert names(done.stderr, named[1]), done.stderr


def names(message: str, key: str) -> bool:
    """Whether the message names the key, as Helm 3 does (a.b.c) or as Helm 4 does (/a/b/c)."""
    return key in message or "/" + key.replace(".", "/") in message


def test_a_refusal_says_the_way_out(helm4: Helm) -> None:
    """A contradiction's message is one sentence that names both sides and what to change."""
    done = helm4.template(sets=("cache.l1BytesMax=4Gi",))
    assert "raise the limit, or lower cache.l1BytesMax" in done.stderr
    assert "2Gi" in done.stderr
    assert "4864 MiB" in done.stderr or "4964 MiB" in done.stderr
