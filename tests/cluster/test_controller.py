"""The controller's decisions: what it creates, replaces, leaves alone, and when it says that the cache is whole."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stratacache.cluster import controller as c
from stratacache.cluster import controller_shell
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.controller_metrics import NAMES, ControllerCollector
from stratacache.cluster.intelligence.plan import Planner
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import UnavailableError
from stratacache.node.metrics import metrics_page
from tests.observe.naming import problems

CONFIG = ClusterConfig(shards=2, token="t", node_resource="stratacache")


def running(**changes: Any) -> c.Running:
    """A cluster that is as CONFIG describes it, but for the changes."""
    fields = {name: value for name, value in CONFIG.to_map().items() if name != "token"}
    endpoints = {"shard-0": "10.0.0.1:6380", "shard-1": "10.0.0.2:6380"}
    base: dict[str, Any] = {"uid": "u", "config": fields, "token_is_ours": True, "endpoints": endpoints, "epoch": 3}
    return c.Running(**{**base, **changes})


def looking(now_ms: int = 0) -> c.Controller:
    """A controller that has just connected and asked to look."""
    core = c.Controller(CONFIG)
    assert core.handle(c.Ticked(), now_ms) == [c.Connect()]
    assert core.handle(c.RayConnected(), now_ms) == [c.Look()]
    return core


def whole() -> c.Controller:
    """A controller that has found everything well."""
    core = looking()
    (ping,) = core.handle(c.Looked(running=running(), places=2), 0)
    assert ping == c.Ping(endpoints={"shard-0": "10.0.0.1:6380", "shard-1": "10.0.0.2:6380"})
    assert core.handle(c.Answered(shards=frozenset({"shard-0", "shard-1"})), 1) == []
    assert core.ready
    return core


def test_it_creates_where_there_is_none() -> None:
    """With room for all shards and nothing there, the cache is created once, and then looked at."""
    core = looking()
    assert core.handle(c.Looked(running=None, places=2), 0) == [c.Create()]
    assert core.handle(c.Done(), 10) == [c.Look()]
    assert core.created == 1


def test_it_waits_for_all_nodes() -> None:
    """One of two nodes is there: nothing is created, the reason says so, and it looks again later."""
    core = looking()
    assert core.handle(c.Looked(running=None, places=1), 0) == []
    assert core.why() == "waiting for Ray nodes: 2 shards, places for 1"
    assert core.handle(c.Ticked(), 1) == []
    assert core.handle(c.Ticked(), c.LOOK_EVERY_MS) == [c.Look()]


def test_a_running_cluster_is_left_alone() -> None:
    """What is as wanted is only asked whether it serves; so a second controller changes nothing."""
    core = whole()
    for round_ in range(1, 5):
        now_ms = round_ * c.LOOK_EVERY_MS
        assert core.handle(c.Ticked(), now_ms) == [c.Look()]
        effects = core.handle(c.Looked(running=running(), places=0), now_ms)
        assert [type(effect) for effect in effects] == [c.Ping]
        core.handle(c.Answered(shards=frozenset({"shard-0", "shard-1"})), now_ms)
    assert (core.created, core.removed) == (0, 0)


def test_losing_the_race_to_create_is_no_harm() -> None:
    """When another controller was first, the failed creation leads to a look, which finds its cluster."""
    core = looking()
    core.handle(c.Looked(running=None, places=2), 0)
    assert core.handle(c.Failed(reason="a cache named 'default' already runs"), 0) == []
    assert core.handle(c.Ticked(), c.RETRY_MIN_MS) == [c.Look()]
    assert [type(one) for one in core.handle(c.Looked(running=running(), places=2), 1_000)] == [c.Ping]
    assert core.created == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": {**CONFIG.to_map(), "policy": "lfu"}}, "policy"),
        ({"config": {**CONFIG.to_map(), "l1_bytes_max": 1}}, "l1_bytes_max"),
        ({"token_is_ours": False}, "token"),
        ({"failed": "port 6380 is in use"}, "port 6380 is in use"),
    ],
)
def test_what_differs_is_replaced(changes: dict[str, Any], named: str) -> None:
    """Another policy, another size, another token, a cluster that never formed: removed by its uid, then created."""
    core = looking()
    assert core.handle(c.Looked(running=running(**changes), places=2), 0) == [c.Remove(uid="u")]
    assert named in core.why()
    assert core.handle(c.Done(), 1) == [c.Look()]
    assert core.handle(c.Looked(running=None, places=2), 2) == [c.Create()]
    assert core.removed == 1


def test_settings_of_the_next_start_replace_nothing() -> None:
    """The time that a start may take, and the uid, are no differences."""
    changed = {**CONFIG.to_map(), "uid": "another", "start_timeout_ms": 1_000}
    core = looking()
    assert [type(one) for one in core.handle(c.Looked(running=running(config=changed), places=2), 0)] == [c.Ping]


def test_another_number_of_shards_is_a_resize_once_there_is_room() -> None:
    """Nothing is removed; it waits for places, asks once, and then waits for the new shard to answer."""
    core = looking()
    one = running(target=("shard-0",), endpoints={"shard-0": "10.0.0.1:6380"})
    assert core.handle(c.Looked(running=one, places=1), 0) == [c.Ping(endpoints=one.endpoints)]
    assert core.why() == "waiting for Ray nodes: 2 shards, places for 1"
    core.handle(c.Ticked(), c.LOOK_EVERY_MS)
    assert core.handle(c.Looked(running=one, places=2), c.LOOK_EVERY_MS) == [c.Resize(uid="u", shards=2)]
    assert core.handle(c.Done(), c.LOOK_EVERY_MS) == [c.Look()]
    both = running(target=("shard-0", "shard-1"), endpoints=one.endpoints, waits_for="waits for shard-1 to start")
    assert core.handle(c.Looked(running=both, places=2), c.LOOK_EVERY_MS) == [c.Ping(endpoints=one.endpoints)]
    core.handle(c.Answered(shards=frozenset({"shard-0"})), c.LOOK_EVERY_MS)
    assert not core.ready
    assert core.why() == "the resize waits for shard-1 to start"
    assert (core.resized, core.removed) == (1, 0)


def test_a_cluster_that_was_drained_by_hand_keeps_its_numbers() -> None:
    """Two shards are wanted and two there are, though not the first two."""
    core = looking()
    others = {"shard-0": "10.0.0.1:6380", "shard-2": "10.0.0.3:6380"}
    effects = core.handle(c.Looked(running=running(target=("shard-0", "shard-2"), endpoints=others), places=2), 0)
    assert effects == [c.Ping(endpoints=others)]
    core.handle(c.Answered(shards=frozenset(others)), 1)
    assert core.ready


def test_several_copies_are_started_anew_with_another_number() -> None:
    """They can't be resized yet."""
    core = c.Controller(replace(CONFIG, replicas=2))
    core.handle(c.Ticked(), 0)
    core.handle(c.RayConnected(), 0)
    config = {**running().config, "replicas": 2}
    found = running(config=config, target=("shard-0", "shard-1", "shard-2"))
    assert core.handle(c.Looked(running=found, places=3), 0) == [c.Remove(uid="u")]
    assert "shards" in core.why()


def test_ready_needs_every_shard() -> None:
    """One silent shard: not ready, and the reason names it with what the coordinator knows."""
    core = looking()
    core.handle(c.Looked(running=running(reasons={"shard-1": "its process ended"}), places=2), 0)
    core.handle(c.Answered(shards=frozenset({"shard-0"})), 1)
    assert not core.ready
    assert core.why() == "not serving: shard-1 (its process ended)"


def test_a_suspended_shard_is_not_ready() -> None:
    """A shard without an endpoint can't answer: the others alone are not the whole cache."""
    core = looking()
    core.handle(c.Looked(running=running(endpoints={"shard-0": "10.0.0.1:6380"}), places=2), 0)
    core.handle(c.Answered(shards=frozenset({"shard-0"})), 1)
    assert not core.ready


def test_ray_away_leaves_serving_shards_ready() -> None:
    """While Ray's head restarts the shards are still asked; the cache is ready as long as they say that they serve."""
    core = whole()
    core.handle(c.Ticked(), c.LOOK_EVERY_MS)
    (ping,) = core.handle(c.RayLost(reason="closed channel"), c.LOOK_EVERY_MS)
    assert isinstance(ping, c.Ping)
    core.handle(c.Answered(shards=frozenset({"shard-0", "shard-1"})), c.LOOK_EVERY_MS)
    assert core.ready
    core.handle(c.RayLost(reason="closed channel"), 2 * c.LOOK_EVERY_MS)
    core.handle(c.Answered(shards=frozenset()), 2 * c.LOOK_EVERY_MS)
    assert not core.ready
    assert "Ray does not answer" in core.why()


def test_retries_back_off_and_never_stop() -> None:
    """Waits double up to a bound; after the hundredth failure it still tries."""
    core = c.Controller(CONFIG)
    now_ms = began = 0
    waits = []
    for _ in range(100):
        while core.handle(c.Ticked(), now_ms) == []:
            now_ms += 100
        waits.append(now_ms - began)
        core.handle(c.RayLost(reason="refused"), now_ms)
        began = now_ms
    assert waits[:3] == [0, c.RETRY_MIN_MS, 2 * c.RETRY_MIN_MS]
    assert max(waits) == c.RETRY_MAX_MS


def test_figures_that_can_not_be_had_keep_it_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for its page alone: it looks, decides and asks on, and tries for them again later."""
    asked: list[str] = []

    class Handle:
        token = None

        def __init__(self, *_: object) -> None:
            pass

        def status(self) -> dict[str, Any]:
            return {"uid": "life", "phase": "running", "epoch": 1, "reason": "", "shards": []}

        def stats(self) -> dict[str, Any]:
            asked.append("stats")
            raise UnavailableError("a shard's figures can't be added up")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=list, shutdown=lambda: None))
    monkeypatch.setattr(controller_shell, "find_coordinator", lambda _: None)
    monkeypatch.setattr(controller_shell, "ClusterHandle", Handle)
    shell = controller_shell.ControllerShell(CONFIG, "auto", http_host="127.0.0.1", http_port=0)
    try:
        for _ in range(2):
            seen = shell._act(c.Look())
            assert isinstance(seen, c.Looked)
            assert seen.running is not None
        assert asked == ["stats"]
    finally:
        shell._http.close()


def test_metrics_are_what_prometheus_reads() -> None:
    """The page parses, keeps the rules of naming, and has the samples of controller, cluster, shards and levels."""
    engine = MultiLevelCache()
    engine.put(b"docs:a", b"b")
    engine.get(b"docs:a")
    shard = {"id": "shard-0", "state": "active", "incarnation": 2, "stats": engine.stats()}
    gone = {"id": "shard-1", "state": "suspended", "incarnation": 3, "stats": {}}
    figures = {"name": "default", "ready": False, "epoch": 4, "term": 2, "replicas": 1, "config": {"shards": 2}}
    figures["prefetch"] = Planner().report()
    core = whole()
    page = metrics_page(ControllerCollector(core, lambda: {**figures, "shards": [shard, gone]}))("").body.decode()
    found = {family.name: family for family in text_string_to_metric_families(page)}
    assert [problem for name in found if name.startswith("stratacache") for problem in problems(found[name])] == []
    assert 'stratacache_controller_shards_ready{cluster="default"} 2.0\n' in page
    assert 'stratacache_controller_shard_ready{cluster="default",shard="shard-1"} 1.0\n' in page
    assert 'stratacache_cluster_epoch{cluster="default"} 4.0\n' in page
    assert 'stratacache_cluster_shards_active{cluster="default"} 1.0\n' in page
    assert 'stratacache_hits_total{cluster="default",shard="shard-0"} 1.0\n' in page
    assert 'stratacache_level_entries{cluster="default",level="l1_memory",shard="shard-0"} 1.0\n' in page
    assert 'stratacache_namespace_puts_total{cluster="default",namespace="docs",shard="shard-0"} 1.0\n' in page
    assert 'stratacache_hits_total{cluster="default",shard="shard-1"}' not in page
    assert 'stratacache_cluster_prefetch_issued_total{cluster="default",kind="wake"} 0.0\n' in page
    assert len(set(NAMES)) == len(NAMES)
    engine.close()
    empty = metrics_page(ControllerCollector(core, dict))("").body.decode()
    assert "stratacache_controller_shards_wanted" in empty
    assert "stratacache_hits_total" not in empty
