"""The engine against a dumb dictionary: whatever is done to it, in any order, it gives the model's value or a miss."""

from __future__ import annotations

import tempfile
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import NEVER_MS, Entry
from stratacache.node.leases import LeaseReply, LeaseState
from stratacache.node.types import EvictionPolicy

KEYS = st.sampled_from([b"a", b"b", b"c", b"docs:a", b"docs:b", b"docs:c", b"mail:a"])
TAGS = st.sampled_from([(), (b"red",), (b"red", b"blue"), (b"blue",)])
SIZES = st.sampled_from([0, 1, 70, 700, 3000])
TTLS = st.sampled_from([None, None, 5, 500, 50_000])


def scan_all(engine: MultiLevelCache) -> set[bytes]:
    """The keys that a scan lists, in steps."""
    listed: set[bytes] = set()
    cursor = -1
    while cursor:
        cursor, keys = engine.scan(max(cursor, 0), 2)
        listed.update(keys)
    return listed


class EngineMachine(RuleBasedStateMachine):
    """Three levels with little room, and a model of (payload, expiry, tags) by key."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.model: dict[bytes, tuple[bytes, int, tuple[bytes, ...]]] = {}
        self.leases: dict[bytes, tuple[bytes, int]] = {}  # key -> token, moment at which it was taken
        self.touched: list[tuple[str, bytes]] = []
        self.number = 0

    @initialize(
        policy=st.sampled_from(list(EvictionPolicy)),
        l1_entries=st.sampled_from([1, 2, 5, None]),
        l2_bytes=st.sampled_from([0, 2500, 20_000]),
        disk=st.booleans(),
        mode=st.sampled_from(list(WriteMode)),
    )
    def begin(self, policy: EvictionPolicy, l1_entries: int | None, l2_bytes: int, disk: bool, mode: WriteMode) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.config = NodeConfig(
            l1_bytes_max=8000,
            l1_entries_max=l1_entries,
            l2_bytes_max=l2_bytes,
            policy=policy,
            l3_bytes_max=(4 << 20) * disk,
            data_dir=Path(self.directory.name) if disk else None,
            l3_write_mode=mode,
        )
        self.engine = MultiLevelCache(self.config, clock=self.clock)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
            self.directory.cleanup()

    @rule(key=KEYS, size=SIZES, ttl_ms=TTLS, tags=TAGS)
    def put(self, key: bytes, size: int, ttl_ms: int | None, tags: tuple[bytes, ...]) -> None:
        self.number += 1
        payload = (b"%d," % self.number * (size + 1))[:size]
        expires_ms = NEVER_MS if ttl_ms is None else self.clock.now_ms() + ttl_ms
        stored = self.engine.put(key, payload, tags=tags, expires_ms=expires_ms)
        self.model.pop(key, None)
        if stored:
            self.model[key] = (payload, expires_ms, tags)
        self.touched.append(("key", key))

    def alive(self, key: bytes) -> tuple[bytes, int, tuple[bytes, ...]] | None:
        found = self.model.get(key)
        return found if found is not None and found[1] > self.clock.now_ms() else None

    def agrees(self, key: bytes, found: object) -> None:
        expected = self.alive(key)
        if found is None:
            return  # evicted: a miss is always legal
        assert isinstance(found, Entry)
        assert expected is not None, f"{key!r} is back from the dead"
        assert (found.payload, found.expires_ms, found.tags) == expected

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        found = self.engine.get(key)
        self.agrees(key, found)
        if found is not None:
            self.agrees(key, self.engine.peek(key))

    @rule(key=KEYS)
    def peek(self, key: bytes) -> None:
        self.agrees(key, self.engine.peek(key))

    @rule(key=KEYS, ttl_ms=TTLS)
    def set_expiry(self, key: bytes, ttl_ms: int | None) -> None:
        expires_ms = NEVER_MS if ttl_ms is None else self.clock.now_ms() + ttl_ms
        if self.engine.set_expiry(key, expires_ms):
            payload, _, tags = self.alive(key) or (b"", 0, ())
            assert self.alive(key) is not None
            self.model[key] = (payload, expires_ms, tags)

    @rule(ms=st.sampled_from([1, 10, 600, 60_000]))
    def time_passes(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule(key=KEYS)
    def remove(self, key: bytes) -> None:
        removed = self.engine.remove(key)
        assert not (removed and self.alive(key) is None)
        self.model.pop(key, None)
        self.touched.append(("key", key))

    @rule(tags=st.sets(st.sampled_from([b"red", b"blue", b"none"]), min_size=1))
    def invalidate_tags(self, tags: set[bytes]) -> None:
        removed = self.engine.invalidate_tags(tuple(tags))
        covered = [key for key, (_, _, own) in self.model.items() if set(own) & tags]
        assert isinstance(removed, int)
        for key in covered:
            del self.model[key]
        self.touched.extend(("tag", tag) for tag in tags)

    @rule(namespace=st.sampled_from([b"docs", b"mail", b"default"]))
    def invalidate_namespace(self, namespace: bytes) -> None:
        self.engine.invalidate_namespace(namespace)
        for key in list(self.model):
            if (key.split(b":")[0] if b":" in key else b"default") == namespace:
                del self.model[key]
        self.touched.append(("namespace", namespace))

    @rule()
    def clear(self) -> None:
        self.engine.clear()
        self.model.clear()
        self.touched.append(("all", b""))

    @rule(key=KEYS)
    def take_lease(self, key: bytes) -> None:
        reply = self.engine.lease(key, 0, 1 << 40)
        assert not isinstance(reply, Future)
        assert isinstance(reply, LeaseReply)
        if reply.state is LeaseState.HIT:
            self.agrees(key, reply.entry)
        elif reply.state is LeaseState.LEASE:
            self.leases[key] = (reply.token, len(self.touched))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), tags=TAGS)
    def fill(self, data: st.DataObject, tags: tuple[bytes, ...]) -> None:
        key = data.draw(st.sampled_from(sorted(self.leases)))
        token, moment = self.leases.pop(key)
        namespace = key.split(b":")[0] if b":" in key else b"default"
        names = {("key", key), ("namespace", namespace), ("all", b"")} | {("tag", tag) for tag in tags}
        void = any(what in names for what in self.touched[moment:])
        self.number += 1
        payload = b"fill %d" % self.number
        stored = self.engine.put(key, payload, tags=tags, lease=token)
        assert not (stored and void), "a fill was stored although its lease is void"
        if not void:
            assert stored, "a good fill was refused"
        if stored:
            self.model[key] = (payload, NEVER_MS, tags)
            self.touched.append(("key", key))

    @rule()
    def tick(self) -> None:
        self.engine.tick()

    @rule()
    def flush(self) -> None:
        self.engine.flush()
        self.engine._handoff.run_done_for(0.02)

    @rule()
    def restart(self) -> None:
        self.engine.close()
        self.leases.clear()
        self.engine = MultiLevelCache(self.config, clock=self.clock)
        if not self.config.l3_bytes_max:
            self.model.clear()

    @rule()
    def scan(self) -> None:
        listed = scan_all(self.engine)
        assert all(self.alive(key) is not None for key in listed)
        assert {key for key in self.model if self.engine.peek(key) is not None} <= listed

    @rule(data=st.data(), key=KEYS, tags=TAGS)
    def scan_while_others_work(self, data: st.DataObject, key: bytes, tags: tuple[bytes, ...]) -> None:
        """What is there before, between and after the steps of a scan is listed, wherever it moves meanwhile."""
        held = {name for name in self.model if self.engine.peek(name) is not None}
        listed: set[bytes] = set()
        cursor = 0
        for step in range(100):
            cursor, keys = self.engine.scan(cursor, 1)
            listed.update(keys)
            if not cursor:
                break
            if step < 4:
                if data.draw(st.booleans()):
                    self.put(key, 700, None, tags)
                else:
                    self.get(data.draw(KEYS))
            held &= {name for name in self.model if self.engine.peek(name) is not None}
        assert not cursor
        assert held <= listed

    @invariant()
    def internals_hold(self) -> None:
        if hasattr(self, "engine"):
            self.engine.validate()
            assert len(self.engine) >= 0


EngineMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.pytestmark = [pytest.mark.timeout(300)]  # type: ignore[attr-defined] # what fails is made short first
