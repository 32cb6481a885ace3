"""Runs the node as plain Python where its hot modules were compiled: import this before anything of `stratacache.node`.

`python -m pytest -p tests.plain` tests the sources themselves, as they run on a machine without a C compiler.
"""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

NODE = Path(__file__).resolve().parents[1] / "node"


def _sources_only(path: str) -> FileFinder:
    if not Path(path).resolve().is_relative_to(NODE):
        raise ImportError
    return FileFinder(path, (SourceFileLoader, SOURCE_SUFFIXES))


if not any(name.startswith("stratacache.node.") for name in sys.modules):
    sys.path_hooks.insert(0, _sources_only)
    sys.path_importer_cache.clear()
