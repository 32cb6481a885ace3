"""`cached_map_batches`: the same dataset as without a cache, and the function called for distinct missing rows only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from stratacache.client import AIOperation, CacheClient, connect
from stratacache.cluster import start
from stratacache.cluster.data import CachedRows, cached_map_batches
from stratacache.cluster.rows import join_rows, split_rows
from stratacache.node.errors import UsageError
from tests.client_api.engine_cache import EngineCache

NUMPY = {
    "id": np.arange(4),
    "text": np.array(["a", "bb", "a", None], dtype=object),
    "name": np.array(["x", "yyy", "x", "z"]),
    "vector": np.arange(12, dtype="<f4").reshape(4, 3),
    "when": np.array(["2026-01-01"] * 4, dtype="<M8[ns]"),
    "ragged": np.array([[1], [1, 2], [1], []], dtype=object),
}
PANDAS = pd.DataFrame(
    {
        "id": np.arange(4, dtype="int32"),
        "text": ["a", "bb", "a", None],
        "score": np.array([1, 2, 1, 3], dtype="float32"),
        "when": pd.to_datetime(["2026-01-01"] * 4),
        "flag": [True, False, True, True],
    }
)
ARROW = pa.table(
    {
        "id": pa.array([0, 1, 2, 3], pa.int16()),
        "text": ["a", "bb", "a", None],
        "vector": pa.array([[1.0], [2.0, 3.0], [1.0], None], pa.list_(pa.float32())),
    }
)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(
            a[name].dtype == b[name].dtype and a[name].tolist() == b[name].tolist() for name in a
        )
    return bool(a.equals(b))


@pytest.mark.parametrize("batch", [NUMPY, PANDAS, ARROW], ids=["numpy", "pandas", "arrow"])
def test_rows_and_back(batch: Any) -> None:
    """Splitting a batch into rows that are stored, and joining what comes back, loses no dtype and no value."""
    cache = EngineCache()
    rows = split_rows(batch)
    assert cache.put_many({str(index): row for index, row in enumerate(rows)}) == 4
    assert equal(join_rows(rows), batch)
    assert equal(join_rows(list(cache.get_many(["0", "1", "2", "3"]).values())), batch)


def texts_of(batch: Any) -> list[Any]:
    column = batch["text"]
    texts = column.to_pylist() if isinstance(batch, pa.Table) else column
    return [text if isinstance(text, str) else None for text in texts]  # pandas says NaN for None


def lengthen(batch: Any) -> Any:
    """Adds the length of the text, in the kind of batch that it was given."""
    lengths = np.array([len(text or "") for text in texts_of(batch)], dtype="<i4")
    if isinstance(batch, dict):
        return {**batch, "length": lengths}
    return batch.assign(length=lengths) if isinstance(batch, pd.DataFrame) else batch.append_column("length", [lengths])


@pytest.mark.parametrize("batch", [NUMPY, PANDAS, ARROW], ids=["numpy", "pandas", "arrow"])
@pytest.mark.parametrize("columns", [None, ("text",)], ids=["all columns", "on text"])
def test_same_batches_fewer_calls(batch: Any, columns: Any) -> None:
    """The output is that of the plain function; on `text` repeats are computed once, and nothing the second time."""
    seen: list[Any] = []

    def work(part: Any) -> Any:
        seen.extend(texts_of(part))
        return lengthen(part)

    cache = EngineCache()
    tags = ["text:{rows[text]}"] if columns else []
    for _ in range(2):
        rows = CachedRows(work, work, columns, {"client": cache, "tags": tags})
        assert equal(rows.run(batch, (), {}), lengthen(batch))
        assert seen == (["a", "bb", None] if columns else ["a", "bb", "a", None])
    if columns:
        assert cache.invalidate_tags(["text:a"]) == 1


def test_wrong_uses_are_named() -> None:
    """Columns that are not there, tags that an entry can't have, functions that change the number of rows."""
    cache = EngineCache()

    def work(batch: Any) -> Any:
        return {"x": batch["id"][1:]}

    with pytest.raises(UsageError, match=r"on=\['nope'\]"):
        CachedRows(work, work, ("nope",), {"client": cache}).run(NUMPY, (), {})
    with pytest.raises(UsageError, match="returned 3 outputs for 4 inputs"):
        CachedRows(work, work, ("id",), {"client": cache}).run(NUMPY, (), {})
    with pytest.raises(UsageError, match="column 'id' is not in on"):
        cached_map_batches(None, work, on=["text"], tags=["doc:{id}"])
    with pytest.raises(UsageError, match="function or a callable class"):
        cached_map_batches(None, 7)

    async def coroutine(batch: Any) -> Any:
        return batch

    with pytest.raises(UsageError, match="async"):
        cached_map_batches(None, coroutine)


class Embed:
    """A callable class, as an actor would hold a model; writes down what it computes."""

    def __init__(self, log: str, factor: int = 1) -> None:
        self.log, self.factor = Path(log), factor

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self.log.open("a") as file:
            file.writelines(f"{text}\n" for text in batch["text"])
        vectors = [[len(text) * self.factor, ord(text[-1])] for text in batch["text"]]
        return {**batch, "vector": np.array(vectors, dtype="<f4")}


@pytest.fixture(scope="module")
def cache(ray_session: str) -> Iterator[CacheClient]:
    """One shard, found by the workers through Ray."""
    with start(shards=1, l1_bytes_max=64 << 20, l2_bytes_max=0):
        client = connect()
        yield client
        client.close()


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(240)
def test_a_dataset_with_repeats(cache: CacheClient, tmp_path: Path) -> None:
    """20,000 rows, 60 % repeats: four workers call for each distinct row once, then one for none; outputs in order."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"id": index, "text": f"text {index * 7 % 8000}"} for index in range(20_000)]
    dataset = ray.data.from_items(rows, override_num_blocks=16)
    log = tmp_path / "computed"
    options: dict[str, Any] = {"fn_constructor_args": [str(log)], "batch_size": 500, "num_cpus": 0.5}
    plain = Embed(str(log))({name: np.array([row[name] for row in rows]) for name in ("id", "text")})
    log.unlink()
    options |= {"on": ["text"], "operation": AIOperation.EMBED, "tags": ["text:{text}"], "version": "1"}
    for workers in (4, 1):
        made = cached_map_batches(dataset, Embed, concurrency=workers, **options)
        found = made.take_all()
        assert [row.keys() for row in found] == [plain.keys()] * 20_000
        for name, column in plain.items():
            assert np.array_equal(np.stack([row[name] for row in found]), column), name
        assert sorted(log.read_text().splitlines()) == sorted({row["text"] for row in rows})
    assert cache.invalidate_tags(["text:text 7"]) == 1


def slow_first(batch: dict[str, Any]) -> dict[str, Any]:
    """Keeps the first block back for longer than all others take together."""
    if batch["id"][0] == 0:
        time.sleep(1.0)
    return {**batch, "twice": batch["id"] * 2}


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_rows_come_out_in_order(cache: CacheClient) -> None:
    """A slow block does not let later ones pass; whoever wants speed instead can have it."""
    import ray.data

    def dataset() -> Any:
        return ray.data.range(400, override_num_blocks=4)

    made = cached_map_batches(dataset(), slow_first, batch_size=100, concurrency=2)
    assert [row["twice"] for row in made.take_all()] == list(range(0, 800, 2))
    assert not ray.data.DataContext.get_current().execution_options.preserve_order, "others keep Ray's default"
    loose = cached_map_batches(dataset(), slow_first, preserve_order=False, version="loose")
    assert not loose.context.execution_options.preserve_order
