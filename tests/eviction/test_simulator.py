"""The trace readers, the generator and the table of the simulator."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ai_traces import make_all, write_csv
from benchmarks.hit_ratio import measure, regrets, table
from benchmarks.traces import ORACLE, make_trace, read_trace


def test_readers_agree(tmp_path: Path) -> None:
    """The same requests as oracleGeneral, .xz, JSONL and CSV are the same trace."""
    keys = [7, 9, 7, 8, 9, 7]
    records = np.zeros(6, ORACLE)
    records["key"], records["size"] = keys, 5
    (tmp_path / "a.oracleGeneral.bin").write_bytes(records.tobytes())
    (tmp_path / "a.oracleGeneral.bin.xz").write_bytes(lzma.compress(records.tobytes()))
    (tmp_path / "a.jsonl").write_text('{"hash_ids": [7, 9, 7]}\n{"hash_ids": [8, 9, 7]}\n')
    (tmp_path / "a.csv").write_text("key,size,cost\n" + "".join(f"{key},5,0.5\n" for key in keys))
    for path in sorted(tmp_path.iterdir()):
        trace = read_trace(path)
        assert trace.keys.tolist() == [0, 1, 0, 2, 1, 0], path
        assert trace.next_use.tolist() == [2, 4, 5, -1, -1, -1]
    assert read_trace(tmp_path / "a.csv").costs.tolist() == [0.5, 0.5, 0.5]


def test_generator_is_a_function_of_its_seed(tmp_path: Path) -> None:
    """Same seed, same bytes; another seed, others."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_csv(make_all(seed, 1_000)[3], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_table_and_regret() -> None:
    """INTELLIGENT, LRU and Belady in one cell; nothing beats Belady; small caches leave S3-FIFO out."""
    pytest.importorskip("libcachesim")
    draw = np.random.Generator(np.random.PCG64(1))
    trace = make_trace("t", draw.integers(0, 300, 5_000))
    policies = ["intelligent", "lru", "belady"]
    rows = [row for policy in policies if (row := measure(trace, policy, 0.1, in_bytes=False))]
    by = {row["policy"]: row["miss_ratio"] for row in rows}
    assert by["belady"] < min(by["intelligent"], by["lru"])
    assert regrets(rows) == {("t", 0.1): pytest.approx(100 * (by["intelligent"] - by["lru"]))}
    assert "| t | 10 |" in table(rows, policies, "miss_ratio")
    assert measure(trace, "s3fifo", 0.1, in_bytes=False) is None
