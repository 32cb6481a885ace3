"""What the tests of strategies share: a client of a real node, and a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stratacache.client import connect
from stratacache.client.base import Cache
from tests.strategies.stores import Watched
from tests.wire.processes import running_node


@pytest.fixture(scope="module")
def node() -> Iterator[int]:
    with running_node() as (_, port):
        yield port


@pytest.fixture
def cache(node: int, request: pytest.FixtureRequest) -> Iterator[Cache]:
    with connect(f"strata://127.0.0.1:{node}") as client:
        yield client.namespace(request.node.name.replace("[", "-").strip("]")[:80])


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "store")
