"""What the README shows, run as it is printed: the Python examples, in order, against a real node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from stratacache.client import MISS
from tests.wire.processes import running_node

README = Path(__file__).parent.parent / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_python_examples_run_as_printed() -> None:
    """Every block runs, and does what the text around it says."""
    blocks = python_blocks()
    assert len(blocks) == 2
    with running_node() as (_, port):
        scope: dict[str, Any] = {}
        first, second = (block.replace("127.0.0.1:6380", f"127.0.0.1:{port}") for block in blocks)
        before_last, last = first.rstrip().rsplit("\n", 1)
        exec(compile(before_last, "README.md", "exec"), scope)
        cache, embed = scope["cache"], scope["embed"]
        key = embed.key_for("a chunk of text", model="minilm")
        assert isinstance(scope["vector"], np.ndarray)
        assert np.array_equal(cache.get(key), scope["vector"])
        exec(compile(last, "README.md", "exec"), scope)
        assert cache.get(key) is MISS

        lines = second.rstrip().split("\n")
        exec(compile(lines[0], "README.md", "exec"), scope)
        assert eval(lines[1].split("#")[0], scope) == {"text": "42", "score": 0.9}
        assert eval(lines[2].split("#")[0], scope) == {"answer": {"text": "42", "score": 0.9}}
        exec(compile(lines[3], "README.md", "exec"), scope)
        assert cache.get("answer", namespace="rag") is MISS
        cache.close()
