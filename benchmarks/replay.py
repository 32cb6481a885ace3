"""One trace through one cache: the engine's own policy objects, or a baseline of libcachesim.

Invariants: both get the same requests in the same order with the same sizes, and give the same thing: one byte a
request, 1 for a miss. An object larger than the cache is never taken in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.traces import Trace
from stratacache.node.policies import Policy, make_policy
from stratacache.node.policies.base import Evictable, evictable
from stratacache.node.types import EvictionPolicy

Misses = npt.NDArray[np.uint8]

BASELINES = {
    "fifo": "FIFO",
    "lru": "LRU",
    "lfu": "LFU",
    "s3fifo": "S3FIFO",
    "sieve": "Sieve",
    "wtinylfu": "WTinyLFU",
    "gdsf": "GDSF",
    "arc": "ARC",
    "lirs": "LIRS",
    "lhd": "LHD",
    "belady": "Belady",
}
"""Name on the command line -> class in libcachesim."""

ENGINE = {"intelligent": EvictionPolicy.INTELLIGENT} | {f"engine-{kind.value}": kind for kind in EvictionPolicy}
"""Name on the command line -> policy of the engine."""


def replay(trace: Trace, policy: str, capacity: int, *, in_bytes: bool, seed: int = 0) -> Misses:
    """Which requests miss in a cache of `capacity` bytes (`in_bytes`) or objects."""
    if policy in ENGINE:
        return replay_policy(trace, make_policy(ENGINE[policy], seed=seed), capacity, in_bytes=in_bytes)
    return _replay_baseline(trace, BASELINES[policy], capacity, in_bytes=in_bytes)


def replay_policy(trace: Trace, policy: Policy, capacity: int, *, in_bytes: bool) -> Misses:
    """The loop of a level: ask, and on a miss make room as the policy says and take the object in."""
    keys = trace.keys.tolist()
    sizes = trace.sizes.tolist() if in_bytes else [1] * len(trace.sizes)
    costs = trace.costs.tolist()
    held: dict[int, Evictable] = {}
    misses = bytearray(len(keys))
    used = 0
    for number, key in enumerate(keys):
        entry = held.get(key)
        if entry is not None:
            policy.on_hits((entry,))
            continue
        misses[number] = 1
        size = sizes[key]
        needed = used + size - capacity
        if size > capacity or (needed > 0 and not policy.admits(b"%016x" % key, size, costs[key], needed)):
            continue
        while used + size > capacity:
            victim = policy.pop_victim()
            del held[int(victim.key, 16)]
            used -= victim.size
        entry = held[key] = evictable(b"%016x" % key, size, costs[key])
        policy.on_insert(entry)
        used += size
    return np.frombuffer(bytes(misses), np.uint8)


def _replay_baseline(trace: Trace, name: str, capacity: int, *, in_bytes: bool) -> Misses:
    import libcachesim

    cache: Any = getattr(libcachesim, name)(capacity, hashpower=18)  # its default begins with a table of 128 MB
    request = libcachesim.Request(obj_size=1, obj_id=1)
    request.op = libcachesim.ReqOp.OP_GET
    get = cache.get
    sizes = trace.sizes.tolist() if in_bytes else [1] * len(trace.sizes)
    misses = bytearray(len(trace.keys))
    never = 1 << 62
    for number, (key, following) in enumerate(zip(trace.keys.tolist(), trace.next_use.tolist(), strict=True)):
        request.obj_id = key + 1
        request.obj_size = sizes[key]
        request.clock_time = number
        request.next_access_vtime = following if following >= 0 else never
        if not get(request):
            misses[number] = 1
    return np.frombuffer(bytes(misses), np.uint8)
