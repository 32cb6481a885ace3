"""The Grafana dashboard: valid, and every query asks for metrics and labels that exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stratacache.cluster.controller_metrics import NAMES
from tests.observe.naming import asked, exported, unknown_labels

BOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "helm" / "stratacache" / "files" / "dashboard.json").read_text()
)
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
UNITS = {"short", "percentunit", "bytes", "s", "ops", "Bps"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_what_exists(panel: dict[str, Any]) -> None:
    """Each query names at least one metric, only metrics that are exported, and only labels that these have."""
    names = exported(NAMES)
    assert panel["targets"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    for target in panel["targets"]:
        query = target["expr"]
        assert asked(query), query
        assert asked(query) <= set(names), query
        assert unknown_labels(query, names) == [], query
        assert query.count("(") == query.count(")")
        for name in asked(query):
            is_counted = name.endswith(("_total", "_bucket"))
            assert is_counted == ("rate(" in query or "increase(" in query), f"a rate is taken of counters: {query}"


def test_the_board_is_whole() -> None:
    """Ids differ, no panel lies on another, the variables' queries name metrics that exist, each level is shown."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS) >= 12
    cells = [
        (x, y)
        for panel in PANELS
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            assert asked(variable["query"]) <= set(exported(NAMES))
            assert asked(variable["query"])


def test_the_check_of_labels_can_fail() -> None:
    """A label that a metric does not have is found, where it selects and where it groups."""
    names = exported(NAMES)
    assert unknown_labels('sum by (tenant) (stratacache_entries{cluster="a"})', names) == ["tenant"]
    assert unknown_labels('stratacache_entries{level="l1"}', names) == ["level"]
    assert unknown_labels('sum by (level) (stratacache_level_entries{level="l1"})', names) == []
