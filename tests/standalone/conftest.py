"""Fixtures: a Helm engine to render with."""

from tests.helm.conftest import helm4

__all__ = ["helm4"]
