"""The trace readers, the generator and the table of the simulator."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from benchmarks import held_out
from benchmarks.ai_traces import make_all, write_csv
from benchmarks.hit_ratio import main, measure, regrets, table
from benchmarks.traces import ORACLE, make_trace, read_trace
from benchmarks.workloads import make_one


def test_readers_agree(tmp_path: Path) -> None:
    """The same requests as oracleGeneral, .xz, .zst, JSONL and CSV are the same trace."""
    keys = [7, 9, 7, 8, 9, 7]
    records = np.zeros(6, ORACLE)
    records["key"], records["size"] = keys, 5
    (tmp_path / "a.oracleGeneral.bin").write_bytes(records.tobytes())
    (tmp_path / "a.oracleGeneral.bin.xz").write_bytes(lzma.compress(records.tobytes()))
    packed = pytest.importorskip("zstandard").ZstdCompressor().compress(records.tobytes())
    (tmp_path / "a.oracleGeneral.bin.zst").write_bytes(packed)
    (tmp_path / "a.jsonl").write_text('{"hash_ids": [7, 9, 7]}\n{"hash_ids": [8, 9, 7]}\n')
    (tmp_path / "a.csv").write_text("key,size,cost\n" + "".join(f"{key},5,0.5\n" for key in keys))
    for path in sorted(tmp_path.iterdir()):
        trace = read_trace(path)
        assert trace.keys.tolist() == [0, 1, 0, 2, 1, 0], path
        assert trace.next_use.tolist() == [2, 4, 5, -1, -1, -1]
    assert read_trace(tmp_path / "a.csv").costs.tolist() == [0.5, 0.5, 0.5]


def test_cost_rules(tmp_path: Path) -> None:
    """`--cost` replaces the column: 1, 1 ms a KiB, or drawn once for each key from a fixed seed."""
    path = tmp_path / "a.csv"
    path.write_text("key,size,cost\n7,2048,0.5\n9,1024,0.25\n7,2048,0.5\n")
    assert read_trace(path, cost_rule="unit").costs.tolist() == [1, 1]
    assert read_trace(path, cost_rule="size").costs.tolist() == [0.002, 0.001]
    drawn = read_trace(path, cost_rule="lognormal").costs
    assert (drawn == read_trace(path, cost_rule="lognormal").costs).all()
    assert (drawn > 0).all()
    assert drawn[0] != drawn[1]


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One run gives the tables of both ratios, the rows as JSON and the plot as PNG."""
    pytest.importorskip("matplotlib")
    trace = tmp_path / "a.jsonl"
    trace.write_text("".join(f'{{"hash_ids": [{number % 40}, {number % 7}]}}\n' for number in range(400)))
    report = tmp_path / "out.json"
    arguments = ["--sizes", "0.1,0.5", "--policies", "intelligent,engine-lru", "--cost", "lognormal", "--json", report]
    monkeypatch.setattr("sys.argv", ["hit_ratio", str(trace), *map(str, arguments)])
    main()
    rows = json.loads(report.read_text())
    assert [(row["policy"], row["size"]) for row in rows] == [
        (policy, size) for size in (0.1, 0.5) for policy in ("intelligent", "engine-lru")
    ]
    assert all(row["requests"] == 800 and 0 < row["cost_miss_ratio"] <= 1 for row in rows)
    assert report.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "cost_miss_ratio, percent" in capsys.readouterr().out


def test_generator_is_a_function_of_its_seed(tmp_path: Path) -> None:
    """Same seed, same bytes; another seed, others."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_csv(make_all(seed, 1_000)[3], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_workloads_are_functions_of_their_seeds() -> None:
    """Same seed, same requests; another seed, another system; sizes and costs where the kind has them."""
    for kind in ("block", "web", "agents"):
        first, again, other = (make_one(kind, seed, 4_000) for seed in (2, 2, 3))
        assert first.keys.tolist() == again.keys.tolist() != other.keys.tolist()
        assert len(first.keys) == 4_000
        assert (len(set(first.sizes.tolist())) > 100) == (kind == "web") == (len(set(first.costs.tolist())) > 100)


def test_public_traces_become_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of blocks are unrolled, addresses and penalties read, what is missing is named with its source."""
    lines = b"100 3 0 0\n101 1 0 1\n"
    (tmp_path / "P3.lis.zst").write_bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(lines))
    (tmp_path / "gcc.trace.xz").write_bytes(lzma.compress(b"s 0x1f 1 1 100\nl 0x20 1 1 10\ns 0x1f 1 1 100\n"))
    monkeypatch.setattr("sys.argv", ["held_out", str(tmp_path), str(tmp_path / "csv")])
    held_out.main()
    assert read_trace(tmp_path / "csv" / "P3.csv").keys.tolist() == [0, 1, 2, 1]
    penalties = read_trace(tmp_path / "csv" / "gcc-penalties.csv")
    assert (penalties.keys.tolist(), penalties.costs.tolist()) == ([0, 1, 0], [100, 10])
    assert "moka-rs/cache-trace arc/P12.lis.zst" in capsys.readouterr().out


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
