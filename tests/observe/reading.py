"""Reading a page with metrics as Prometheus does."""

from __future__ import annotations

import urllib.request

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families


def read(address: str, path: str = "/metrics", accept: str = "") -> str:
    request = urllib.request.Request(f"http://{address}{path}", headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name whose labels include these."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, (name, labels)
    return sum(found)
