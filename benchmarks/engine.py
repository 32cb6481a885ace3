"""The node engine without a network: `python -m benchmarks.engine --json F [--quick]`.

Latencies are processor time of the calling thread per operation, best of several rounds, so that neighbours on the
machine count little; stalls and acknowledgements are wall time. Memory is what the resident set of a process of its
own grows by, ours and Redis's in the same run. Redis figures are left out where redis-server is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.engine import MultiLevelCache
from stratacache.node.policies import make_policy
from stratacache.node.policies.base import evictable
from stratacache.node.tuning import tune_process
from stratacache.node.types import EvictionPolicy, RemovalCause

PARTS = ("memory", "pauses", "tag", "latencies", "evictions")
MIB = 1 << 20
GIB = 1 << 30
TAGGED = 100_000
MEMORY_ENTRIES = 1_000_000
MEMORY_PAYLOAD_BYTES = 100
TTL_MS = 3_600_000


def cpu_us(operation: Callable[[], object], operations: int, rounds: int = 5) -> float:
    """Microseconds of processor time per operation, best round."""
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time_ns()
        operation()
        best = min(best, time.thread_time_ns() - start)
    return best / operations / 1000


def latencies(directory: Path) -> dict[str, float]:
    """Get and put per level, 1 KB values of JSON-like text."""
    rng = random.Random(1)
    text = " ".join(rng.choice(["alpha", "beta", "gamma", "delta", "0.173"]) for _ in range(400)).encode()[:1024]
    keys = [b"docs:%012d" % number for number in range(5000)]
    figures: dict[str, float] = {}

    def put_all(engine: MultiLevelCache) -> None:
        expires_ms = engine.now_ms() + TTL_MS
        for key in keys:
            engine.put(key, text, expires_ms=expires_ms, tags=(b"model:minilm", b"embed"))

    def get_all(engine: MultiLevelCache) -> None:
        for key in keys:
            assert engine.get(key) is not None

    def drain(engine: MultiLevelCache) -> None:
        engine.flush()
        while engine.l3 is not None and not engine.l3.idle:
            engine._handoff.run_done_for(0.05)
            engine.flush()

    memory = MultiLevelCache(NodeConfig(l1_bytes_max=GIB))
    figures["put_us.L1"] = cpu_us(lambda: put_all(memory), len(keys))
    figures["get_us.L1"] = cpu_us(lambda: get_all(memory), len(keys))

    packed = MultiLevelCache(NodeConfig(l1_bytes_max=GIB, l1_entries_max=1, l2_bytes_max=GIB))
    figures["put_us.L2"] = cpu_us(lambda: put_all(packed), len(keys))
    figures["get_us.L2"] = cpu_us(lambda: get_all(packed), len(keys))

    behind = MultiLevelCache(
        NodeConfig(l1_bytes_max=GIB, l2_bytes_max=GIB, l3_bytes_max=GIB, data_dir=directory / "behind")
    )
    put_all(behind)
    best = float("inf")
    for _ in range(5):
        drain(behind)
        best = min(best, cpu_us(lambda: put_all(behind), len(keys), rounds=1))
    figures["put_us.L3_write_behind"] = best
    drain(behind)
    start = time.perf_counter()
    put_all(behind)
    drain(behind)
    figures["flush_us.L3_write_behind"] = (time.perf_counter() - start) / len(keys) * 1e6

    def forget() -> None:
        for entry in list(behind.table.values()):
            behind.residents.unlink(entry, RemovalCause.DROPPED)

    best = float("inf")
    for _ in range(5):
        forget()
        best = min(best, cpu_us(lambda: get_all(behind), len(keys), rounds=1))
    figures["get_us.L3"] = best
    behind.close()

    through = MultiLevelCache(
        NodeConfig(
            l1_bytes_max=GIB, l3_bytes_max=GIB, data_dir=directory / "through", l3_write_mode=WriteMode.WRITE_THROUGH
        )
    )
    start = time.perf_counter()
    for key in keys[:200]:
        through.put(key, text)
    figures["put_wall_us.L3_write_through"] = (time.perf_counter() - start) / 200 * 1e6
    through.close()
    return figures


def evictions(sizes: list[int]) -> dict[str, float]:
    """Processor time of one eviction (choose, forget) by policy and number of entries held."""
    figures: dict[str, float] = {}
    for kind in EvictionPolicy:
        for held in sizes:
            rng = random.Random(2)
            policy = make_policy(kind, seed=3, entries_hint=held)
            entries = [
                evictable(b"%d" % number, rng.randrange(100, 5000), rng.random(), 10**12 + rng.randrange(10**7))
                for number in range(held)
            ]
            for entry in entries:
                policy.on_insert(entry)
            policy.on_hits(rng.choices(entries, k=held))
            portion = max(100, min(held // 10, 5000))
            rounds = []
            for _ in range(5):
                start = time.thread_time_ns()
                victims = [policy.pop_victim() for _ in range(portion)]
                rounds.append((time.thread_time_ns() - start) / portion / 1000)
                for victim in victims:
                    policy.on_insert(victim)
            figures[f"eviction_us.{kind.name}.{held}"] = min(rounds)
            del entries, policy
    return figures


async def tag_of_100k(directory: Path) -> dict[str, float]:
    """Invalidate a tag of 100,000 entries in L1 + L3 while another client reads, until all traces are swept."""
    loop = asyncio.get_running_loop()
    config = NodeConfig(l1_bytes_max=GIB, l3_bytes_max=2 * GIB, data_dir=directory / "tag")
    engine = MultiLevelCache(config, post=loop.call_soon_threadsafe)
    for number in range(TAGGED):
        engine.put(b"k%d" % number, b"x" * 100, tags=(b"tag",))
    for number in range(1000):
        engine.put(b"other%d" % number, b"x" * 100)
    assert engine.l3 is not None
    while not engine.l3.idle or engine.l3.stats()["entries"] < TAGGED + 1000:
        engine.tick()
        await asyncio.sleep(0.01)
    longest = 0.0
    stop = False

    async def reader() -> None:
        nonlocal longest
        number = 0
        while not stop:
            start = time.perf_counter()
            await asyncio.sleep(0)
            number += 1
            assert engine.get(b"other%d" % (number % 1000)) is not None
            longest = max(longest, time.perf_counter() - start)

    async def ticker() -> None:
        while not stop:
            engine.tick()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(reader()), asyncio.create_task(ticker())]
    await asyncio.sleep(0.5)
    quiet, longest = longest, 0.0
    start = time.perf_counter()
    removed = engine.invalidate_tags((b"tag",))
    count = await asyncio.wrap_future(removed) if isinstance(removed, Future) else removed
    ack = time.perf_counter() - start
    assert count == TAGGED, count
    while engine.l3.stats()["entries"] > 1000 or len(engine.table) > 1000:  # noqa: ASYNC110 - sampled on purpose
        await asyncio.sleep(0.05)
    swept = time.perf_counter() - start
    stop = True
    await asyncio.gather(*tasks)
    engine.close()
    return {
        "tag_100k_ack_ms": ack * 1000,
        "tag_100k_longest_stall_ms": longest * 1000,
        "tag_100k_quiet_stall_ms": quiet * 1000,
        "tag_100k_swept_ms": swept * 1000,
    }


@contextmanager
def redis_server() -> Iterator[tuple[Any, int]]:
    """A redis-server of our own, its client and its process id."""
    import redis

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
    )
    try:
        client = redis.Redis(port=port)
        until = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < until, "redis-server does not start"
                time.sleep(0.02)
        yield client, process.pid
    finally:
        process.terminate()
        process.wait()


def redis_figures(entries: int) -> dict[str, float]:
    """The same in Redis: SMEMBERS + DEL of a tag of 100,000, and the memory of small entries with a TTL."""
    with redis_server() as (client, pid):
        pipeline = client.pipeline(transaction=False)
        for number in range(TAGGED):
            pipeline.set(b"k%d" % number, b"x" * 100, ex=3600)
            pipeline.sadd(b"tag", b"k%d" % number)
            if number % 10_000 == 9999:
                pipeline.execute()
        start = time.perf_counter()
        members = list(client.smembers(b"tag"))
        for at in range(0, len(members), 10_000):
            client.delete(*members[at : at + 10_000])
        client.delete(b"tag")
        tag_ms = (time.perf_counter() - start) * 1000
        client.flushall()
        rss, used = psutil.Process(pid).memory_info().rss, client.info("memory")["used_memory"]
        for number in range(entries):
            pipeline.set(b"key:%012d" % number, b"x" * MEMORY_PAYLOAD_BYTES, ex=3600)
            if number % 10_000 == 9999:
                pipeline.execute()
        net = 16 + MEMORY_PAYLOAD_BYTES
        return {
            "tag_100k_redis_ms": tag_ms,
            "redis_overhead_bytes": (client.info("memory")["used_memory"] - used) / entries - net,
            "redis_rss_overhead_bytes": (psutil.Process(pid).memory_info().rss - rss) / entries - net,
        }


MEMORY_SCRIPT = """
import psutil
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.tuning import tune_process
tune_process()
engine = MultiLevelCache(NodeConfig(l1_bytes_max=4 << 30))
engine.put(b"warm", b"x")
before = psutil.Process().memory_info().rss
for number in range({entries}):
    engine.put(b"key:%012d" % number, b"x" * 99 + b"%d" % (number % 10), expires_ms=engine.now_ms() + 3_600_000)
after = psutil.Process().memory_info().rss
print((after - before) / {entries} - 16 - 100)
"""


def memory(entries: int) -> dict[str, float]:
    """Bytes that a small entry in L1 costs beside its key and payload."""
    script = MEMORY_SCRIPT.format(entries=entries)
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return {"l1_overhead_bytes": float(output)}


def pauses() -> dict[str, float]:
    """Longest stop of a process with a million entries that goes on putting, with the collector as Python sets it
    and as `tune_process` does."""
    figures = {}
    for name, tuned in (("default", False), ("tuned", True)):
        script = (
            "import time\n"
            "from stratacache.node.config import NodeConfig\n"
            "from stratacache.node.engine import MultiLevelCache\n"
            "from stratacache.node.tuning import tune_process\n"
            f"{'tune_process()' if tuned else ''}\n"
            "engine = MultiLevelCache(NodeConfig(l1_bytes_max=4 << 30))\n"
            "longest = 0\n"
            "for number in range(1_300_000):\n"
            "    start = time.perf_counter_ns()\n"
            "    engine.put(b'key:%012d' % number, b'x' * 100)\n"
            "    if number > 500_000: longest = max(longest, time.perf_counter_ns() - start)\n"
            "print(longest / 1e6)\n"
        )
        output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        figures[f"put_longest_ms.{name}_gc"] = float(output)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="100,000 entries where the full run takes a million")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of these, with commas between")
    options = parser.parse_args()
    parts = set(options.parts.split(","))
    if parts - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(parts - set(PARTS)))}: there are {', '.join(PARTS)}")
    entries = MEMORY_ENTRIES // (10 if options.quick else 1)
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if "memory" in parts:
            figures |= memory(entries)
            if shutil.which("redis-server"):
                figures |= redis_figures(entries)
                ours, rss = figures["l1_overhead_bytes"], figures["redis_rss_overhead_bytes"]
                figures["overhead_vs_redis"] = ours / rss
                figures["overhead_vs_redis_used_memory"] = ours / figures["redis_overhead_bytes"]
        if "pauses" in parts and not options.quick:
            figures |= pauses()
        tune_process()
        if "tag" in parts:
            figures |= asyncio.run(tag_of_100k(directory))
        if "latencies" in parts:
            figures |= latencies(directory)
        gc.disable()
        if "evictions" in parts:
            figures |= evictions([1000, 100_000] if options.quick else [1000, 100_000, 1_000_000])
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
