"""A long seeded story for an engine of each policy, told as one digest: `python -m tests.node.story [plain]`.

`plain` leaves compiled modules aside (tests/plain.py).
"""

from __future__ import annotations

import hashlib
import random
import sys

if "plain" in sys.argv:
    import tests.plain  # noqa: F401 (it takes effect when imported, before anything of the node)

from stratacache.node import engine
from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.entry import Entry
from stratacache.node.types import EvictionPolicy


def turn(node: engine.MultiLevelCache, clock: ManualClock, draw: random.Random) -> object:
    """One call, drawn at random; what it answered."""
    key = b"ns%d:%d" % (draw.randrange(3), int(draw.paretovariate(0.6)) % 500)
    tag = b"t%d" % draw.randrange(9)
    what = draw.random()
    if what < 0.55:
        entry = node.get(key)
        return (entry.payload, entry.tags, entry.version, entry.size) if isinstance(entry, Entry) else entry
    if what < 0.9:
        payload = draw.randbytes(draw.randrange(2_000))
        until_ms = clock.now_ms() + draw.randrange(1, 90_000)
        codec = draw.randrange(3)
        return node.put(key, payload, expires_ms=until_ms, tags=(tag,), cost_s=draw.random(), codec=codec)
    if what < 0.93:
        return node.invalidate_tags([tag])
    if what < 0.96:
        return node.remove(key)
    if what < 0.98:
        return node.set_expiry(key, clock.now_ms() + 1_000)
    clock.advance(draw.randrange(5_000))
    node.tick()
    return len(node), node.scan(0, 100)


def tell() -> str:
    """The digest of everything that was answered."""
    told = hashlib.sha256()
    for policy in EvictionPolicy:
        draw = random.Random(7)
        clock = ManualClock()
        config = NodeConfig(l1_bytes_max=200_000, l2_bytes_max=60_000, policy=policy)
        node = engine.MultiLevelCache(config, clock=clock)
        for _ in range(6_000):
            told.update(repr(turn(node, clock, draw)).encode())
        node.drain_hits()
        node.validate()
        told.update(repr([node.hits, node.misses, node.puts, node.residents.bytes_used]).encode())
        node.close()
    return told.hexdigest()


if __name__ == "__main__":
    print("plain" if engine.__file__.endswith(".py") else "compiled", tell())
