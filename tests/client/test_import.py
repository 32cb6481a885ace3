"""What importing the client costs, and what it must not pull in."""

from __future__ import annotations

import subprocess
import sys

import stratacache.client

HEAVY = ("ray", "numpy", "asyncio", "uvloop", "lmdb", "uhashring", "stratacache.node.engine", "stratacache.cluster")


def test_importing_pulls_nothing_heavy_in() -> None:
    """The package and connect() come without Ray, NumPy, asyncio and the engine, each in a fresh process."""
    for line in ("import stratacache.client", "from stratacache.client import connect, CacheClient, MISS"):
        code = f"import sys; {line}; print([name for name in {HEAVY!r} if name in sys.modules])"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.strip() == "[]", line


def test_what_is_exported_is_there() -> None:
    """Every name of __all__ can be had, the list is sorted, and nothing else is promised by dir()."""
    names = stratacache.client.__all__
    assert all(getattr(stratacache.client, name) is not None for name in names)
    assert len(set(names)) == len(names)
    assert set(dir(stratacache.client)) == set(names)
