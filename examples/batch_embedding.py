"""Batch embedding with Ray Data: rows that somebody embedded before are not embedded again."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray
import ray.data

from stratacache.client import AIOperation, connect
from stratacache.cluster import start
from stratacache.cluster.data import cached_map_batches


class Embedder:
    """Loads its model once for each worker; every row costs time."""

    def __init__(self, model: str) -> None:
        self.model = model

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One batch in, the same rows with their vectors out."""
        time.sleep(0.002 * len(batch["text"]))
        vectors = [np.random.default_rng(len(text)).random(64, dtype=np.float32) for text in batch["text"]]
        return {**batch, "vector": np.stack(vectors)}


def main() -> None:
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # 60 % of the rows repeat a text that another row has.
    dataset = ray.data.from_items([{"id": row, "text": "word " * (row % 400)} for row in range(1000)])
    with start(shards=1), connect() as cache:
        for run in ("first", "second"):
            started = time.perf_counter()
            made = cached_map_batches(
                dataset,
                Embedder,
                on=["text"],  # the id does not change the vector
                operation=AIOperation.EMBED,
                tags=["model:minilm"],
                fn_constructor_args=["minilm"],
                batch_size=100,
                concurrency=2,
            )
            rows = made.take_all()
            print(f"{run} run: {len(rows)} rows in {time.perf_counter() - started:.1f} s")
        print(f"vectors in the cache: {cache.invalidate_tags(['model:minilm'])} for {len(rows)} rows")


if __name__ == "__main__":
    main()
