"""Which Ray node a shard's process is started on.

Invariants: a pure function of what is seen; a shard goes back to the node that holds its disk while that node lives;
otherwise to the node with the fewest shards, in a fixed order among equals, so that shards spread evenly; a node never
gets more shards than it has room for, since the memory of all would be lost with it; where nodes are homes, a shard is
started at its own or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stratacache.cluster.coordinator_events import NodeSeen


def place(shard: str, index: int, nodes: Sequence[NodeSeen], homes: Mapping[str, str]) -> str | None:
    """The id of the node for `shard`, the index-th of its cluster; None to wait until there is one.

    `homes` maps each shard to the id of the node where it runs or last ran.
    """
    load = Counter(node for other, node in homes.items() if other != shard)
    room = [node for node in nodes if node.capacity is None or load[node.id] < node.capacity]
    if any(node.home is not None for node in nodes):
        return next((node.id for node in room if is_home(node, index)), None)
    home = homes.get(shard, "")
    if any(node.id == home for node in room):
        return home
    return min((node.id for node in room), key=lambda node: (load[node], node), default=None)


def is_home(node: NodeSeen, index: int) -> bool:
    """Whether the index-th shard belongs to this node."""
    return node.home is not None and bool(node.capacity) and index // (node.capacity or 1) == node.home


def node_seen(node: Mapping[str, Any], resource: str) -> NodeSeen | None:
    """One of `ray.nodes()` as a place for shards; None when it is dead, or has not the custom resource asked for."""
    amounts = node["Resources"]
    if not node["Alive"] or (resource and int(amounts.get(resource, 0)) < 1):
        return None
    if not resource:
        return NodeSeen(id=node["NodeID"], address=node["NodeManagerAddress"])
    prefix = f"{resource}-home-"
    homes = [name.removeprefix(prefix) for name in amounts if name.startswith(prefix)]
    home = next((int(number) for number in homes if number.isdigit()), None)
    return NodeSeen(id=node["NodeID"], address=node["NodeManagerAddress"], capacity=int(amounts[resource]), home=home)
