"""`stratacache node`: one cache node without Ray; the same command as `python -m stratacache.node`."""

from __future__ import annotations

from stratacache.node.__main__ import main as command

__all__ = ["command"]
