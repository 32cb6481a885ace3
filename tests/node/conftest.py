"""Fixtures of the node tests: engines whose internals are validated when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from stratacache.node.clock import ManualClock
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache


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
