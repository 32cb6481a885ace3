"""A real trace through the engine, compared request by request with an independent implementation of each policy."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.types import EvictionPolicy

TRACE = "shared/traces/caffeine-web12.oracleGeneral.bin.xz"  # beside the checkout, or further up
RECORD = np.dtype([("t", "<u4"), ("k", "<u8"), ("s", "<u4"), ("n", "<i8")])


@pytest.fixture(scope="module")
def requests() -> list[int]:
    """Keys of the trace in order."""
    places = [parent / TRACE for parent in Path(__file__).resolve().parents]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        pytest.skip(f"the trace ../{TRACE} is not there")
    keys: list[int] = np.frombuffer(lzma.decompress(found.read_bytes()), RECORD)["k"].tolist()
    return keys


def size_of(key: int) -> int:
    return 1 + key * 2654435761 % 997


def replay(policy: EvictionPolicy, requests: list[int], entries: int) -> list[bool]:
    """Ask for each key and put it after a miss; gives which requests were hits."""
    clock = ManualClock()
    engine = MultiLevelCache(NodeConfig(policy=policy, l1_entries_max=entries), clock=clock)
    start_ms = clock.now_ms()
    hits = []
    for key in requests:
        name = b"%020d" % key
        hit = engine.get(name) is not None
        if not hit:
            sized = policy is EvictionPolicy.SIZE_BASED
            engine.put(name, bytes(size_of(key)) if sized else b"", expires_ms=start_ms + 1000 + size_of(key))
        hits.append(hit)
    stats = engine.stats()
    assert stats["hits"] == sum(hits)
    assert stats["misses"] == len(requests) - sum(hits)
    engine.validate()
    return hits


@pytest.mark.parametrize("percent", [1, 10])
@pytest.mark.parametrize("policy", [EvictionPolicy.LRU, EvictionPolicy.FIFO, EvictionPolicy.LFU])
def test_same_hits_as_libcachesim(policy: EvictionPolicy, percent: int, requests: list[int]) -> None:
    """LRU, FIFO and LFU give exactly the hits of libcachesim, request by request."""
    simulator: Any = pytest.importorskip("libcachesim")
    entries = len(set(requests)) * percent // 100
    reference = getattr(simulator, policy.name)(cache_size=entries)
    expected = []
    for key in requests:
        request = simulator.Request()
        request.obj_id = key
        request.obj_size = 1
        expected.append(bool(reference.get(request)))
    hits = replay(policy, requests, entries)
    first = next((at for at, pair in enumerate(zip(hits, expected, strict=True)) if pair[0] != pair[1]), None)
    assert first is None, f"request {first} differs"
    assert 0 < sum(hits) < len(hits)


def scan(requests: list[int], entries: int, rank: Callable[[int], int]) -> list[bool]:
    """A cache that looks at all its entries for each victim: lowest rank first, then least recently used."""
    slots: dict[int, int] = {}
    holder = [0] * entries
    order = np.zeros(entries, np.int64)
    hits = []
    for moment, key in enumerate(requests):
        slot = slots.get(key)
        hits.append(slot is not None)
        if slot is None:
            if len(slots) < entries:
                slot = len(slots)
            else:
                slot = int(order.argmin())
                del slots[holder[slot]]
            slots[key] = slot
            holder[slot] = key
        order[slot] = (rank(key) << 32) + moment
    return hits


@pytest.mark.parametrize("percent", [1, 10])
@pytest.mark.parametrize(
    ("policy", "rank"),
    [(EvictionPolicy.TTL, size_of), (EvictionPolicy.SIZE_BASED, lambda key: -size_of(key))],
    ids=["TTL", "SIZE_BASED"],
)
def test_same_hits_as_an_exhaustive_scan(
    policy: EvictionPolicy, rank: Callable[[int], int], percent: int, requests: list[int]
) -> None:
    """TTL and SIZE_BASED give exactly the hits of a cache that scans all entries for each eviction."""
    entries = len(set(requests)) * percent // 100
    hits = replay(policy, requests, entries)
    assert hits == scan(requests, entries, rank)
    assert 0 < sum(hits) < len(hits)
