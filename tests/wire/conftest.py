"""One node and one redis-server for the whole folder; each test begins with them empty."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.wire.processes import running_node, running_redis
from tests.wire.raw import Raw


@pytest.fixture(scope="session")
def node_port() -> Iterator[int]:
    """Port of a node without a token."""
    with running_node() as (_, port):
        yield port


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a real redis-server."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with running_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture
def node(node_port: int) -> Iterator[Raw]:
    """A connection to the node, which is emptied first."""
    with Raw(node_port) as client:
        client.run("FLUSHALL")
        yield client


@pytest.fixture
def redis_server(redis_port: int) -> Iterator[Raw]:
    """A connection to the real redis-server, which is emptied first."""
    with Raw(redis_port) as client:
        client.run("FLUSHALL")
        yield client
