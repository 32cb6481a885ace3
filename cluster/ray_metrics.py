"""The same figures through Ray's own metrics, so that they stand beside Ray's in its dashboard and its exports.

Ray prefixes the names with `ray_`. Namespaces, errors and histograms are left to the pages: what goes this way passes
through Ray's agents on every machine.

Invariants: a process records at most `SERIES_MAX` series every `EVERY_S` seconds, from a thread; nothing here is on the
way of a request; whatever Ray's side does, the cache goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from prometheus_client.core import Metric

EVERY_S: Final = 5.0
SERIES_MAX: Final = 200

log = logging.getLogger(__name__)


class RayMetrics:
    """Hands families of counters and gauges to Ray; a counter by what it has grown."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._last: dict[tuple[str, ...], float] = {}

    def record(self, families: Iterable[Metric]) -> None:
        """Record the samples. Blocks for about 3 us each."""
        from ray.util.metrics import Counter, Gauge

        for family in families:
            if family.type not in ("counter", "gauge"):
                continue
            for sample in family.samples:
                series = (sample.name, *sample.labels.values())
                if series not in self._last and len(self._last) >= SERIES_MAX:
                    continue
                last = self._last.get(series, 0.0)
                self._last[series] = sample.value
                made = self._made.get(sample.name)
                if made is None:
                    kind = Counter if family.type == "counter" else Gauge
                    made = kind(sample.name, family.documentation, tuple(sample.labels))
                    self._made[sample.name] = made
                if family.type == "gauge":
                    made.set(sample.value, sample.labels)
                elif sample.value > last:
                    made.inc(sample.value - last, sample.labels)


async def keep_recording(take: Callable[[], Iterable[Metric]]) -> None:
    """Record what `take` gives, called on this loop, until cancelled."""
    metrics = RayMetrics()
    while True:
        try:
            await asyncio.to_thread(metrics.record, take())
        except Exception:
            log.debug("Ray took no metrics", exc_info=True)
        await asyncio.sleep(EVERY_S)
