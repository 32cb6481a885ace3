"""The rules of Prometheus' "Metric and label naming" that a tool can check, as `promtool check metrics` does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from prometheus_client.core import Metric

from stratacache.node.metrics import Name

_NOT_BASE = re.compile(
    r"(^|_)(ms|us|ns|milliseconds?|microseconds?|nanoseconds?|minutes?|hours?|days?|kb|mb|gb|kib|mib|gib|kilobytes|"
    r"megabytes|percent|percentage)(_|$)"
)
_KINDS = re.compile(r"(^|_)(counter|gauge|histogram|summary)(_|$)")
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
_HISTOGRAM = ("_bucket", "_count", "_sum")


def problems(family: Metric) -> list[str]:
    """What is wrong with a family, in words; nothing when all is well."""
    name = family.name + ("_total" if family.type == "counter" else "_info" if family.type == "info" else "")
    found = []
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        found.append("is not in snake case")
    if len(family.documentation) < 10 or not family.documentation.endswith("."):
        found.append("has no help that says something")
    if family.type not in ("counter", "gauge", "histogram", "info"):
        found.append(f"has the type {family.type}")
    if family.name.endswith("_total"):
        found.append("is no counter and ends in _total")
    if _NOT_BASE.search(name):
        found.append("has a unit that is not a base unit")
    if _KINDS.search(name):
        found.append("names its type")
    if family.name.endswith(_HISTOGRAM):
        found.append("ends as a part of a histogram does")
    base = name.removesuffix("_total")
    found += [f"has {unit} in the middle" for unit in ("bytes", "seconds") if unit in base.split("_")[:-1]]
    labels = {label for sample in family.samples for label in sample.labels}
    bad = [label for label in labels if not _LABEL.fullmatch(label) or label in ("instance", "job", "quantile")]
    found += [f"has the label {label!r}" for label in bad]
    if "le" in labels and family.type != "histogram":
        found.append("has the label 'le' and is no histogram")
    return [f"{name} {problem}" for problem in found]


def exported(names: Mapping[str, Name]) -> dict[str, set[str]]:
    """Every name that a query may use, with its labels; a histogram is queried by its parts."""
    found: dict[str, set[str]] = {}
    for name, known in names.items():
        labels = {"cluster", *known.labels}
        if known.kind == "histogram":
            found |= {name + part: labels | ({"le"} if part == "_bucket" else set()) for part in _HISTOGRAM}
        else:
            found[name] = labels
    return found


def asked(query: str) -> set[str]:
    """The names of ours in a query."""
    return set(re.findall(r"\bstratacache_\w+", query))


def unknown_labels(query: str, labels: Mapping[str, set[str]]) -> list[str]:
    """Labels that a query selects or groups by and that none of its metrics has."""
    used = {word.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for word in group.split(",")}
    used |= {word for group in re.findall(r"\{([^}]*)\}", query) for word in re.findall(r"(\w+)\s*[=!]", group)}
    known: Iterable[str] = {"shard", "namespace", "service"}.union(*(labels[name] for name in asked(query)))
    return sorted(used - set(known))
