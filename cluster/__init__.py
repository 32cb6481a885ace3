"""The cache inside a Ray cluster: shard actors, the coordinator, views, and the command line.

`start()` creates a cluster, `attach()` finds a running one. Importing this package does not import Ray.
"""

from __future__ import annotations

from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.launch import ClusterHandle, attach, start

__all__ = ["ClusterConfig", "ClusterHandle", "attach", "start"]
