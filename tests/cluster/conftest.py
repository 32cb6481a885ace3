"""A cluster without Ray, for the tests of what coordinator and shards decide."""

from __future__ import annotations

import pytest

from tests.cluster.harness import FakeCluster


@pytest.fixture
def cluster() -> FakeCluster:
    """Three shards that serve."""
    fake = FakeCluster()
    fake.start()
    return fake
