"""What `cached_map_batches` costs where nothing repeats, and what it saves where everything does.

One node process, batches of 100 rows, a function that takes 5 ms a row and returns a float32 vector of 384.
`python -m benchmarks.batches`
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import numpy as np

from stratacache.client import AIOperation, connect
from stratacache.cluster.data import CachedRows
from tests.client.servers import address, running

ROW_S = 0.005
ROUNDS = 5
BATCHES = 5


def embed(batch: dict[str, Any]) -> dict[str, Any]:
    """A model that takes ROW_S for each row."""
    rows = len(batch["text"])
    time.sleep(ROW_S * rows)
    return {**batch, "vector": np.random.default_rng(rows).random((rows, 384), dtype=np.float32)}


def batches(tag: int) -> list[dict[str, Any]]:
    """Rows that no other round has."""
    texts = [[f"{tag} {batch} {row} " * 10 for row in range(100)] for batch in range(BATCHES)]
    return [{"id": np.arange(100), "text": np.array(each, dtype=object)} for each in texts]


def main() -> None:
    """Alternate plain, cold and warm runs; print medians as JSON."""
    figures: dict[str, list[float]] = {"plain_s": [], "cold_s": [], "warm_s": []}
    with running(1) as nodes, connect(address(nodes)) as cache:
        rows = CachedRows(embed, embed, ("text",), {"client": cache, "operation": AIOperation.EMBED})
        rows.run(batches(-1)[0], (), {})
        for number in range(ROUNDS):
            work = batches(number)
            for name, taken in figures.items():
                started = time.perf_counter()
                for batch in work:
                    if name == "plain_s":
                        embed(batch)
                    else:
                        rows.run(batch, (), {})
                taken.append(time.perf_counter() - started)
    medians = {name: round(statistics.median(values), 4) for name, values in figures.items()}
    overhead = medians["cold_s"] / medians["plain_s"] - 1
    print(json.dumps({"rows": 100 * BATCHES, **medians, "overhead_percent": round(100 * overhead, 1)}))


if __name__ == "__main__":
    main()
