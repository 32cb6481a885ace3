"""The rules by which metrics are named."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from tests.observe.naming import problems


def test_the_naming_test_can_fail() -> None:
    """Each rule refuses a name that breaks it."""
    long = "A help text that says something."
    wrong = {
        "x_hits": CounterMetricFamily("x_Hits", long),
        "x_total": GaugeMetricFamily("x_total", long),
        "x_ms": GaugeMetricFamily("wait_ms", long),
        "middle": GaugeMetricFamily("x_bytes_used", long),
        "typed": GaugeMetricFamily("x_gauge", long),
        "part": GaugeMetricFamily("x_count", long),
        "help": GaugeMetricFamily("x", ""),
    }
    for why, family in wrong.items():
        assert problems(family), why
    assert problems(CounterMetricFamily("x_sent_bytes", long)) == []
