"""What the tests of decorated functions share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client_api.engine_cache import EngineCache


@pytest.fixture
def cache() -> Iterator[EngineCache]:
    """A cache of its own for each test; its internals are checked afterwards."""
    client = EngineCache()
    yield client
    client.engine.validate()
