"""Fixtures of the node tests: engines whose internals are validated when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig, WriteMode
from stratacache.node.engine import MultiLevelCache

from .disk_world import MIB, Loop, Node


@pytest.fixture
def clock() -> ManualClock:
    """A clock that only the test moves."""
    return ManualClock()


@pytest.fixture
def make_engine(clock: ManualClock) -> Iterator[Callable[..., MultiLevelCache]]:
    """Make engines; each is validated and closed after the test."""
    made: list[MultiLevelCache] = []

    def make(**options: object) -> MultiLevelCache:
        engine = MultiLevelCache(NodeConfig(**options), clock=clock)  # type: ignore[arg-type]
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.validate()
        engine.close()


@pytest.fixture
def engine(make_engine: Callable[..., MultiLevelCache]) -> MultiLevelCache:
    """An engine with an L1 of 1 MiB."""
    return make_engine(l1_bytes_max=1 << 20)


@pytest.fixture
def node(tmp_path: Path, clock: ManualClock) -> Iterator[Node]:
    """A node whose engines are validated and closed."""
    made = Node(tmp_path / "l3", clock)
    yield made
    made.stop()


@pytest.fixture
def looped(tmp_path: Path, clock: ManualClock) -> Iterator[tuple[MultiLevelCache, Loop]]:
    """An engine with three levels and a loop."""
    loop = Loop()
    config = NodeConfig(
        l1_bytes_max=4 * MIB,
        l2_bytes_max=4 * MIB,
        l3_bytes_max=16 * MIB,
        data_dir=tmp_path / "l3",
        l3_write_mode=WriteMode.WRITE_THROUGH,
    )
    engine = MultiLevelCache(config, clock=clock, post=loop.post)
    yield engine, loop
    engine.validate()
    engine.close()
