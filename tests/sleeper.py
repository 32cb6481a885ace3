"""A process whose machine sleeps: what it reads as elapsed time leaps, and `time.monotonic` notices nothing.

Run as `python -m tests.sleeper WHAT [ADDRESS]`; prints what one part of the product believed before and after an hour's
sleep. The leap is made where the product reads the system's clock, before anything of it is imported, so that compiled
modules and what was bound early are tested like the rest. The machine has slept before, for ten days.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

HOUR_S = 3600
CLOCK = {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}.get(sys.platform, "")
DEADLINE_S = 30
slept_s = 10 * 24 * HOUR_S


def believed(what: str, *arguments: str) -> Any:
    """What a process of its own printed."""
    command = [sys.executable, "-m", "tests.sleeper", what, *arguments]
    child = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def leap() -> None:
    """Have `clock_gettime` tell the time slept, in the clock that counts it."""
    counts, seconds = getattr(time, CLOCK), time.clock_gettime
    time.clock_gettime = lambda which: seconds(which) + (slept_s if which == counts else 0)


def sleep() -> None:
    """The machine sleeps for an hour."""
    global slept_s  # noqa: PLW0603 - the state of the whole machine
    slept_s += HOUR_S


def ttl() -> list[bool]:
    """Whether an entry of a minute is there, before and after."""
    from stratacache.node.config import NodeConfig
    from stratacache.node.engine import MultiLevelCache

    engine = MultiLevelCache(NodeConfig(l1_bytes_max=1 << 20))
    engine.put(b"k", b"v", expires_ms=engine.now_ms() + 60_000)
    before = engine.get(b"k") is not None
    sleep()
    return [before, engine.get(b"k") is not None]


def serving() -> list[bool]:
    """Whether a shard that was granted a lease may answer, before and after, by the clock of an engine."""
    from stratacache.cluster.serving import Serving
    from stratacache.node.clock import NodeClock

    clock = NodeClock()
    serving = Serving(shard="shard-0", incarnation=1, lease_ms=10_000)
    serving.epoch, serving.lease_until_ms = 1, clock.now_ms() + 10_000
    before = serving.may_serve(clock.now_ms())
    sleep()
    return [before, serving.may_serve(clock.now_ms())]


def granting() -> list[bool]:
    """Whether a coordinator whose name was confirmed just now may grant leases, before and after."""
    from stratacache.cluster import coordinator_actor
    from stratacache.cluster.authority import Authority

    authority = Authority(10_000)
    authority.confirm(coordinator_actor._now_ms())
    before = authority.may_grant(coordinator_actor._now_ms())
    sleep()
    return [before, authority.may_grant(coordinator_actor._now_ms())]


def near() -> list[bool]:
    """Whether a near cache believes an entry: before, after, and after a heartbeat that was sent before the sleep."""
    from stratacache.client import MISS, ClientOptions
    from stratacache.client.address import parse_address
    from stratacache.client.backend import new_core

    options = ClientOptions(address="strata://a:1", near_bytes_max=1 << 20, near_age_max_s=1e6)
    core = new_core(options, parse_address(options.address))
    assert core.near is not None
    cache = core.near
    part = cache.begin("a")
    beat: list[Any] = [b"sc.beat", 0, 1]
    cache.hear(part, beat)
    cache.heard(part, core.elapsed())
    cache.admit(b"k", [0, b"v", -1, 0, 0, 0, []], b"v", "a", cache.ticket())
    found = [cache.lookup(b"k") is not MISS]
    sleep()
    found.append(cache.lookup(b"k") is not MISS)
    cache.hear(part, beat)
    cache.heard(part, core.elapsed())
    return [*found, cache.lookup(b"k") is not MISS]


def blocking(address: str) -> list[bool]:
    """Whether the near cache of a client holds what was read from a real node, before and after."""
    from stratacache.client import MISS, connect

    with connect(address, near_bytes_max=1 << 20, push_deadline_s=5.0) as cache:
        near = cache._backend.core.near
        assert near is not None
        cache.put("k", "v")
        _poll(lambda: cache.get("k") == "v" and near.lookup(b"k") is not MISS)
        sleep()
        return [True, near.lookup(b"k") is not MISS]


async def in_loop(address: str) -> list[bool]:
    """Likewise of an asyncio client."""
    from stratacache.client import MISS, connect_async

    async with connect_async(address, near_bytes_max=1 << 20, push_deadline_s=5.0) as cache:
        await cache.put("k", "v")
        near = next(iter(cache._backends.values())).core.near
        assert near is not None
        async with asyncio.timeout(DEADLINE_S):
            while await cache.get("k") != "v" or near.lookup(b"k") is MISS:
                await asyncio.sleep(0.005)
        sleep()
        return [True, near.lookup(b"k") is not MISS]


def _poll(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "the near cache believes nothing at all"
        time.sleep(0.005)


if __name__ == "__main__":
    leap()
    if sys.argv[1] == "clients":
        print(json.dumps([blocking(sys.argv[2]), asyncio.run(in_loop(sys.argv[2]))]))
    else:
        stood = time.monotonic()
        told = {found.__name__: found() for found in (ttl, serving, granting, near)}
        assert time.monotonic() - stood < HOUR_S
        print(json.dumps(told))
