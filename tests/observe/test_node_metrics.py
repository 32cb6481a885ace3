"""The page of one node: what Prometheus reads, by names that keep its rules, with the figures of `stats`."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.metrics import (
    BOUNDS_NS,
    NAMES,
    OTHERS,
    Named,
    NodeCollector,
    metrics_page,
    seconds_histogram,
)
from stratacache.node.pages import PageServer
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import Identity, NodeServer
from tests.observe.naming import problems
from tests.observe.reading import families, read, value

CONFIG = {"l1_bytes_max": 1 << 20, "l2_bytes_max": 1 << 20}


def with_node(test: Callable[[MultiLevelCache, NodeServer, str], Awaitable[None]], **config: Any) -> None:
    """Run a test with a node and the address of its page."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        engine = MultiLevelCache(NodeConfig(**{**CONFIG, **config}), post=loop.call_soon_threadsafe)
        server = NodeServer(engine, ServerConfig(), identity=Identity(cluster="c", shard="shard-0"))
        await server.start()
        page = PageServer("127.0.0.1", 0, {"/metrics": metrics_page(NodeCollector(server))})
        try:
            await test(engine, server, page.address)
        finally:
            await asyncio.to_thread(page.close)
            await server.stop(1)
            engine.close()

    asyncio.run(run())


async def fill(engine: MultiLevelCache) -> None:
    """Something in every counter: two namespaces, hits, misses, evictions, an invalidation."""
    for index in range(3000):
        engine.put(b"docs:%d" % index, b"x" * 900, cost_s=0.25, tags=(b"t",) if index % 2 else ())
    engine.put(b"docs:summarize:" + b"0" * 32, b"short", cost_s=2.5, tags=(b"model:m",))
    engine.get(b"docs:summarize:" + b"0" * 32)
    engine.get(b"docs:summarize:" + b"1" * 32)
    for index in range(2990, 3000):
        engine.get(b"docs:%d" % index)
        engine.get(b"none:%d" % index)
    engine.put(b"plain", b"y")
    engine.get(b"plain")
    engine.invalidate_tags([b"t"])


def test_the_page_is_what_prometheus_reads(tmp_path: Path) -> None:
    """It parses, as text and as OpenMetrics; every name of ours is there, with its type and help, by the rules."""

    async def check(engine: MultiLevelCache, _: NodeServer, address: str) -> None:
        await fill(engine)
        text = await asyncio.to_thread(read, address)
        found = families(text)
        assert len(found) == text.count("# TYPE ")
        for name, known in NAMES.items():
            if name == "stratacache_command_errors_total":
                continue  # there were none
            family = found[name if known.kind == "info" else name.removesuffix("_total")]
            kind = "gauge" if known.kind == "info" else known.kind  # as the text format writes it
            assert (family.type, family.documentation) == (kind, known.text)
            for sample in family.samples:
                assert {"cluster", "shard", *known.labels} == set(sample.labels) - {"le"}, sample
                assert sample.labels["cluster"] == "c"
        for family in found.values():
            if family.name.startswith("stratacache_"):
                assert problems(family) == []
        assert value(text, "process_resident_memory_bytes") > 1e6
        modern = await asyncio.to_thread(read, address, "/metrics", "application/openmetrics-text; version=1.0.0")
        assert modern.endswith("# EOF\n")

    with_node(check, l3_bytes_max=8 << 20, data_dir=tmp_path)


def test_the_figures_are_those_of_stats(tmp_path: Path) -> None:
    """Counter by counter, level by level, namespace by namespace: the page says what `stats` says."""

    async def check(engine: MultiLevelCache, server: NodeServer, address: str) -> None:
        await fill(engine)
        engine.flush()
        while engine.residents.dead or (engine.l3 is not None and not engine.l3.idle):
            await asyncio.sleep(0.01)
        text = await asyncio.to_thread(read, address)
        stats = engine.stats()
        for name, figure in (
            ("hits_total", "hits"),
            ("misses_total", "misses"),
            ("puts_total", "puts"),
            ("entries", "entries"),
            ("memory_used_bytes", "memory_bytes"),
            ("saved_seconds_total", "saved_s"),
        ):
            assert value(text, f"stratacache_{name}") == stats[figure], name
        assert stats["hits"] == 12
        assert stats["misses"] == 11
        assert stats["saved_s"] == 10 * 0.25 + 2.5
        for level, figures in stats["levels"].items():
            assert value(text, "stratacache_level_used_bytes", level=level) == figures["bytes_used"] > 0
            assert value(text, "stratacache_level_hits_total", level=level) == figures["hits"]
            for cause, count in figures["removed"].items():
                assert value(text, "stratacache_level_removed_total", level=level, cause=cause) == count
        assert value(text, "stratacache_level_removed_total", cause="invalidated") > 0
        for space, figures in stats["namespaces"].items():
            assert value(text, "stratacache_namespace_hits_total", namespace=space) == figures["hits"]
            assert value(text, "stratacache_namespace_misses_total", namespace=space) == figures["misses"]
            assert value(text, "stratacache_namespace_used_bytes", namespace=space) == figures["bytes"]
        assert value(text, "stratacache_operation_hits_total", operation="summarize") == 1
        assert value(text, "stratacache_operation_misses_total", operation="summarize") == 1
        assert value(text, "stratacache_model_saved_seconds_total", model="m") == 2.5
        times = stats["access_times"]
        assert value(text, "stratacache_access_seconds_count") == times["count"] == 1
        assert value(text, "stratacache_access_seconds_sum") == pytest.approx(times["mean_us"] * times["count"] / 1e6)
        assert value(text, "stratacache_connections_accepted_total") == server.stats()["connections_received"]

    with_node(check, l3_bytes_max=8 << 20, data_dir=tmp_path)


def test_a_histogram_adds_up_and_no_bucket_lies_across_a_bound() -> None:
    """Durations at and beside each bound fall on the right side of it."""
    engine = MultiLevelCache(NodeConfig(**CONFIG), clock=ManualClock())
    for bound in BOUNDS_NS:
        engine.access_times.record(bound - 1)
        engine.access_times.record(bound)
    buckets, seconds = seconds_histogram(engine.stats()["access_times"])
    assert [count for _, count in buckets] == [*range(1, 2 * len(BOUNDS_NS), 2), 2 * len(BOUNDS_NS)]
    assert seconds == pytest.approx(sum(2 * bound - 1 for bound in BOUNDS_NS) / 1e9)
    engine.close()


def test_the_number_of_series_is_bounded_and_no_counter_falls() -> None:
    """The first namespaces keep their series whatever comes later; the rest is one sum."""
    named = Named(2)
    assert set(named.bounded("namespace", {"a": {"hits": 1}, "b": {"hits": 2}})) == {"a", "b"}
    later = named.bounded("namespace", {"z": {"hits": 9}, "y": {"hits": 1}, "a": {"hits": 3}, "b": {"hits": 2}})
    assert later == {"a": {"hits": 3}, "b": {"hits": 2}, OTHERS: {"hits": 10}}
    assert named.bounded("namespace", {OTHERS: {"hits": 4}, "z": {"hits": 9}}) == {OTHERS: {"hits": 13}}

    async def check(engine: MultiLevelCache, _: NodeServer, address: str) -> None:
        await fill(engine)
        before = await asyncio.to_thread(read, address)
        for index in range(1000):
            engine.get(b"n%d:k" % index)
        after = await asyncio.to_thread(read, address)
        assert after.count("stratacache_namespace_hits_total{") <= 51
        assert value(after, "stratacache_namespace_misses_total") == engine.stats()["misses"] == 1011
        for name, family in families(before).items():
            if family.type == "counter" and name.startswith("stratacache_"):
                for sample in family.samples:
                    assert value(after, sample.name, **sample.labels) >= sample.value, sample

    with_node(check)


def test_a_scrape_does_not_hold_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on the loop for a page takes as long with 4,000 namespaces as with one: about a millisecond at most."""
    took: list[float] = []
    take = NodeCollector._snapshot

    def timed(self: NodeCollector) -> Any:
        begun = time.thread_time()
        snapshot = take(self)
        took.append(time.thread_time() - begun)
        return snapshot

    monkeypatch.setattr(NodeCollector, "_snapshot", timed)

    async def check(engine: MultiLevelCache, _: NodeServer, address: str) -> None:
        for index in range(4000):
            engine.put(b"n%d:k" % index, b"v")
        for _ in range(5):
            await asyncio.to_thread(read, address)

    with_node(check)
    assert len(took) == 5
    assert min(took) < 0.003


def test_a_loop_that_does_not_answer_is_no_page_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is stuck gives status 503, so that the scrape fails and `up` says so."""
    monkeypatch.setattr("stratacache.node.pages.SNAPSHOT_S", 0.2)

    async def check(_: MultiLevelCache, __: NodeServer, address: str) -> None:
        asked = threading.Event()
        told: list[int] = []

        def ask() -> None:
            asked.set()
            try:
                read(address)
            except urllib.error.HTTPError as error:
                told.append(error.code)
                error.close()

        thread = threading.Thread(target=ask)
        thread.start()
        asked.wait(5)
        thread.join(10)  # holds this loop
        assert told == [503]

    with_node(check)


def test_stratacache_node_serves_its_page() -> None:
    """With --metrics-port 0 the ready line says where; SIGTERM ends it all the same."""
    command = [sys.executable, "-m", "stratacache.node", "--port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            ready = dict(word.split("=", 1) for word in process.stdout.readline().split()[1:])
            with socket.create_connection(("127.0.0.1", int(ready["port"])), 10) as client:
                client.sendall(b"SET a b\r\nGET a\r\nGET c\r\nNOPE\r\n")
                got = b""
                while b"-ERR" not in got:
                    got += client.recv(1000)
                text = read(ready["metrics"])
            assert value(text, "stratacache_hits_total") == 1
            assert value(text, "stratacache_misses_total") == 1
            assert value(text, "stratacache_connections") == 1
            assert value(text, "stratacache_command_errors_total", error="ERR") == 1
        finally:
            process.terminate()
        assert process.wait(20) == 0
