"""The demonstration: a real AI pipeline on Python's own manual, run through a cache of several shards.

It starts a Ray cluster and a cache of its own and removes both, so it neither sees nor disturbs what runs already.
"""

from __future__ import annotations

from stratacache.cluster.demo.main import Options, run

__all__ = ["Options", "run"]
