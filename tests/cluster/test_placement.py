"""Where shards are placed: spread, back at their disks, within a node's room, and at their homes."""

from __future__ import annotations

from collections import Counter

import pytest

from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.coordinator import Coordinator
from stratacache.cluster.coordinator_events import NodeSeen
from stratacache.cluster.placement import node_seen, place
from stratacache.node.errors import UsageError


def node(name: str, **more: int) -> NodeSeen:
    return NodeSeen(id=name, address="10.0.0.1", **more)


def placed(nodes: list[NodeSeen], count: int) -> dict[str, str | None]:
    """Where `count` shards go, one after the other."""
    homes: dict[str, str] = {}
    out: dict[str, str | None] = {}
    for index in range(count):
        shard = f"shard-{index}"
        out[shard] = place(shard, index, nodes, homes)
        homes[shard] = out[shard] or ""
    return out


def test_shards_spread() -> None:
    """Seven shards on three nodes: no node has more than three."""
    assert max(Counter(placed([node("a"), node("b"), node("c")], 7).values()).values()) == 3


def test_a_full_node_gets_no_more() -> None:
    """With room for one each, the third shard of two nodes waits."""
    where = placed([node("a", capacity=1), node("b", capacity=1)], 3)
    assert sorted(str(one) for one in where.values()) == ["None", "a", "b"]


def test_a_lost_nodes_shards_wait_when_the_rest_is_full() -> None:
    """When a node dies its shard is not put on one whose memory is spoken for."""
    homes = {"shard-0": "a", "shard-1": "b"}
    assert place("shard-0", 0, [node("b", capacity=1)], homes) is None
    assert place("shard-0", 0, [node("b", capacity=1), node("c", capacity=1)], homes) == "c"


def test_shards_spread_evenly_and_go_back_to_their_disk() -> None:
    """The counts of two nodes differ by one at most; a replaced shard returns to the node that holds its L3."""
    nodes = [node(name) for name in "abc"]
    homes = {shard: home for shard, home in placed(nodes, 7).items() if home is not None}
    counts = [list(homes.values()).count(name) for name in "abc"]
    assert (sum(counts), max(counts) - min(counts)) == (7, 1)
    for index in range(7):
        assert place(f"shard-{index}", index, nodes, homes) == homes[f"shard-{index}"]
    assert place("shard-0", 0, nodes[1:], {**homes, "shard-0": "a"}) in {"b", "c"}
    assert place("shard-0", 0, [], homes) is None


def test_a_node_never_gets_more_shards_than_it_has_room_for() -> None:
    """A shard waits rather than overrun a neighbour's memory."""
    homes = placed([node(name, capacity=2) for name in "ab"], 6)
    assert sorted(home for home in homes.values() if home is not None) == ["a", "a", "b", "b"]


def test_a_home_takes_its_own_shards_only() -> None:
    """Home J with room for two takes the shards 2J and 2J+1, in whatever order the nodes are seen."""
    nodes = [node("z", capacity=2, home=0), node("a", capacity=2, home=1)]
    assert placed(nodes, 4) == {"shard-0": "z", "shard-1": "z", "shard-2": "a", "shard-3": "a"}
    assert place("shard-0", 0, nodes[1:], {}) is None


def test_no_node_means_waiting() -> None:
    """A cluster whose nodes have all gone starts nothing anywhere."""
    assert place("shard-0", 0, [], {"shard-0": "a"}) is None


def test_ray_nodes_are_read() -> None:
    """Capacity and home come from custom resources; a node without the resource, or dead, is no place."""
    raw = {"NodeID": "n", "NodeManagerAddress": "10.0.0.9", "Alive": True, "Resources": {"cache": 2.0, "CPU": 4.0}}
    assert node_seen(raw, "cache") == NodeSeen(id="n", address="10.0.0.9", capacity=2)
    assert node_seen(raw, "") == NodeSeen(id="n", address="10.0.0.9")
    assert node_seen(raw, "gpu") is None
    assert node_seen({**raw, "Alive": False}, "cache") is None
    homed = node_seen({**raw, "Resources": {"cache": 2.0, "cache-home-3": 1.0}}, "cache")
    assert homed is not None
    assert homed.home == 3


def test_a_draining_node_closes_its_shards_and_gets_none() -> None:
    """Draining closes what runs there; the shard is started again only on another node."""
    core = Coordinator(name="c", uid="u", shard_ids=("shard-0",))
    here = NodeSeen(id="here", address="10.0.0.1", capacity=1)
    core.handle(c.NodesSeen(nodes=(here,)), 0)
    core.handle(c.NameConfirmed(sent_ms=0), 0)
    effects = core.handle(c.Recovered(term=1, epoch_floor=0), 0)
    (start,) = [one for one in effects if isinstance(one, c.StartShard)]
    assert start.node == "here"
    started = m.ShardStarted(
        shard="shard-0", incarnation=start.incarnation, host="h", port=1, unix="", node="here", pid=1, fence="f"
    )
    core.handle(started, 1)
    effects = core.handle(c.NodeDraining(node="here"), 2)
    assert c.CloseShard(shard="shard-0", incarnation=start.incarnation) in effects
    effects = core.handle(c.ShardLost(shard="shard-0", incarnation=start.incarnation), 3)
    effects += core.handle(c.Ticked(), 60_000)
    assert not [one for one in effects if isinstance(one, c.StartShard)]
    fresh = NodeSeen(id="fresh", address="10.0.0.2", capacity=1)
    effects = core.handle(c.NodesSeen(nodes=(here, fresh)), 60_001)
    assert [one.node for one in effects if isinstance(one, c.StartShard)] == ["fresh"]


@pytest.mark.parametrize("wrong", [{"port_span": 2}, {"port": 6380, "port_span": -1}, {"node_resource": "a b"}])
def test_wrong_places_are_refused(wrong: dict[str, int | str]) -> None:
    """A span without a port, a negative one, and a resource that Ray could not have are refused."""
    with pytest.raises(UsageError, match=next(reversed(wrong))):
        ClusterConfig(**wrong).validate()  # type: ignore[arg-type]
