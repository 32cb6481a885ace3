"""The page of one node: what Prometheus reads, by names that keep its rules, with the figures of `stats`."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from stratacache.node import pages
from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import UnavailableError
from stratacache.node.hot import HALVE_AFTER_HITS, HotKeys
from stratacache.node.metrics import (
    BOUNDS_NS,
    NAMES,
    OTHERS,
    Named,
    NodeCollector,
    metrics_page,
    seconds_histogram,
)
from stratacache.node.pages import REQUESTS_MAX, Page, PageServer, from_loop
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import Identity, NodeServer
from tests.observe.naming import problems

CONFIG = {"l1_bytes_max": 1 << 20, "l2_bytes_max": 1 << 20}


def read(address: str, path: str = "/metrics", accept: str = "") -> str:
    request = urllib.request.Request(f"http://{address}{path}", headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name whose labels include these."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, (name, labels)
    return sum(found)


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


def test_pages_are_only_served_to_who_keeps_to_the_limits() -> None:
    """Unknown paths are 404, an error of a page 500; more requests at once than there are slots are closed."""
    release = threading.Event()

    def slow(_: str) -> Page:
        release.wait(10)
        return Page(b"done\n")

    def broken(_: str) -> Page:
        raise ZeroDivisionError

    def ended(_: str) -> Page:
        raise UnavailableError("not now")

    server = PageServer("127.0.0.1", 0, {"/slow": slow, "/broken": broken, "/ended": ended})
    try:
        for path, status in (("/", 404), ("/broken", 500), ("/ended", 503)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                read(server.address, path)
            assert refused.value.code == status
            refused.value.close()
        waiting = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(REQUESTS_MAX)]
        for one in waiting:
            one.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        more = socket.create_connection(("127.0.0.1", server.port), 10)
        with more, contextlib.suppress(ConnectionResetError):
            assert more.recv(100) == b""
        release.set()
        for one in waiting:
            with one, one.makefile("rb") as answer:
                assert b"200 OK" in answer.readline()
    finally:
        release.set()
        server.close()


def test_who_asks_a_byte_at_a_time_does_not_keep_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are places would keep probes and scrapes out for as long as they like."""
    monkeypatch.setattr(pages, "REQUEST_S", 0.2)
    server = PageServer("127.0.0.1", 0, {"/page": lambda _: Page(b"done\n")})
    slow = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(REQUESTS_MAX)]
    try:
        end = time.monotonic() + 20
        answer = ""
        while not answer:
            assert time.monotonic() < end, "they still hold all places"
            for one in slow:
                with contextlib.suppress(OSError):
                    one.sendall(b"G")
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = read(server.address, "/page")
            time.sleep(0.02)
        assert answer == "done\n"
    finally:
        for one in slow:
            one.close()
        server.close()


def test_a_request_that_gets_no_thread_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may start no more threads for a while answers again afterwards."""

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    server = PageServer("127.0.0.1", 0, {"/page": lambda _: Page(b"done\n")})
    try:
        with monkeypatch.context() as patched:
            patched.setattr(ThreadingHTTPServer, "process_request", no_thread)
            for _ in range(REQUESTS_MAX + 1):
                with pytest.raises((OSError, http.client.HTTPException)):
                    read(server.address, "/page")
        assert read(server.address, "/page") == "done\n"
    finally:
        server.close()


def test_from_loop_gives_the_error_of_what_it_ran() -> None:
    """An error on the loop is raised where it was asked for."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(from_loop, loop, lambda: 1 // 0)

    asyncio.run(run())


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


def test_the_naming_test_can_fail() -> None:
    """Each rule refuses a name that breaks it."""
    long = "A help text that says something."
    wrong = {
        "x_hits": CounterMetricFamily("x_Hits", long),
        "x_total": GaugeMetricFamily("x_total", long),
        "x_ms": GaugeMetricFamily("wait_ms", long),
        "middle": GaugeMetricFamily("x_bytes_used", long),
        "typed": GaugeMetricFamily("x_gauge", long),
        "part": GaugeMetricFamily("x_count", long),
        "help": GaugeMetricFamily("x", ""),
    }
    for why, family in wrong.items():
        assert problems(family), why
    assert problems(CounterMetricFamily("x_sent_bytes", long)) == []


def test_hot_keys_find_the_heavy_ones_among_many() -> None:
    """Three keys with a third of the hits are on top, whatever passes by; the table stays small, and old hits fade."""
    hot = HotKeys(16)
    for index in range(3000):
        hot.hit(b"cold-%d" % index, 1)
        if index % 2 == 0:
            hot.hit(b"hot-%d" % (index % 3), 1)
    assert {key for key, _ in hot.top(3)} == {b"hot-0", b"hot-1", b"hot-2"}
    assert all(hits <= 5 for key, hits in hot.top(16) if key.startswith(b"cold")), "one hit each: none is hot"
    assert len(hot.top(100)) == 16
    hot.hit(b"new", HALVE_AFTER_HITS)
    assert hot.top(1)[0] == (b"new", HALVE_AFTER_HITS // 2)
    assert dict(hot.top(16))[b"hot-0"] < 500


def test_hot_keys_and_seconds_saved_are_in_stats() -> None:
    """Keys that are read more stand before the others; an unknown cost saves nothing that could be told."""
    engine = MultiLevelCache(NodeConfig(**CONFIG), clock=ManualClock())
    engine.put(b"measured", b"v", cost_s=2.0)
    engine.put(b"unknown", b"v")
    for _ in range(200):
        engine.get(b"measured")
        engine.drain_hits()
    for _ in range(5):
        engine.get(b"unknown")
    stats = engine.stats()
    assert stats["saved_s"] == 400.0
    assert stats["hot"] == [["measured", 200], ["unknown", 5]]
    engine.close()
