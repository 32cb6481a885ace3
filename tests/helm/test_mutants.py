"""The mutations of `make helm-mutants` keep up with the templates."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helm.mutants import MUTATIONS, Mutation, mutate
from tests.helm.tools import CHART


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_applies(mutation: Mutation, tmp_path: Path) -> None:
    """The text that each mutation changes is in the template that it names."""
    chart = tmp_path / "stratacache"
    shutil.copytree(CHART, chart)
    mutate(mutation, chart)
    path = chart / "templates" / mutation.file
    assert path.read_text() != (CHART / "templates" / mutation.file).read_text()
