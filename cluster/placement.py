"""Which Ray node a shard's process is started on.

Invariants: a pure function of what is seen; a shard goes back to the node that holds its disk while that node lives;
otherwise to the node with the fewest shards, in a fixed order among equals, so that shards spread evenly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from stratacache.cluster.messages import NodeSeen


def place(shard: str, nodes: Sequence[NodeSeen], homes: Mapping[str, str]) -> str:
    """The id of the node for `shard`, or "" to leave it to Ray.

    `homes` maps each shard to the id of the node where it runs or last ran.
    """
    alive = {node.id for node in nodes}
    if not alive:
        return ""
    home = homes.get(shard, "")
    if home in alive:
        return home
    load = Counter(node for other, node in homes.items() if other != shard and node in alive)
    return min((node.id for node in nodes), key=lambda node: (load[node], node))
