"""A shard's home for tests: its directory, and the one for its sockets."""

from __future__ import annotations

import os
from pathlib import Path

from stratacache.cluster.home import ShardHome


def home_in(path: Path, shard: str = "shard-0") -> ShardHome:
    return ShardHome(data_dir=str(path), cluster="c", uid=f"test-{os.getpid()}", shard=shard)
