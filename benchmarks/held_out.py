"""Requests that INTELLIGENT's constants were not chosen on: public traces as CSV, for `benchmarks.hit_ratio`.

    python -m benchmarks.held_out FILES DIRECTORY [--requests 200000]

FILES holds what SOURCES names, each under the last part of its path. The traces belong to those who published them and
are not part of this repository. Sizes and costs are written where the trace has them. Then, for the table of
docs/EVICTION.md (`benchmarks.workloads` writes the generated ones into the same directory):

    python -m benchmarks.hit_ratio DIRECTORY/{P2,P3,P12,cloudPhysicsIO,gcc}.csv DIRECTORY/{block,agents}-*.csv
    python -m benchmarks.hit_ratio --bytes DIRECTORY/{cloudPhysicsIO,gcc-penalties}.csv DIRECTORY/web-*.csv

Invariant: the first so many requests, in order; a request of the ARC traces for several blocks is one for each.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.ai_traces import write_csv
from benchmarks.traces import Trace, make_trace, read_raw, read_trace

_CAFFEINE = "ben-manes/caffeine simulator/src/main/resources/com/github/benmanes/caffeine/cache/simulator/parser"
SOURCES = {
    "P2": "moka-rs/cache-trace arc/P2.lis.zst",
    "P3": "moka-rs/cache-trace arc/P3.lis.zst",
    "P12": "moka-rs/cache-trace arc/P12.lis.zst",
    "cloudPhysicsIO": "1a1a11a/libCacheSim data/cloudPhysicsIO.oracleGeneral.bin",
    "gcc": f"{_CAFFEINE}/address/gcc.trace.gz",
    "gcc-penalties": f"{_CAFFEINE}/address/penalties/gcc.trace.xz",
}
"""Trace -> GitHub repository and path."""


def arc(path: Path, requests: int) -> Trace:
    """Block reads of the ARC paper: first block, number of blocks, two fields that do not matter."""

    def blocks() -> Iterator[int]:
        for line in read_raw(path).splitlines():
            first, count, *_ = map(int, line.split())
            yield from range(first, first + count)

    return make_trace("", np.fromiter(islice(blocks(), requests), np.int64))


def addresses(path: Path, requests: int) -> Trace:
    """Memory accesses of a program: load or store, address, distance; perhaps two more and what a miss costs."""
    unpack = lzma.decompress if path.suffix == ".xz" else gzip.decompress
    rows = [line.split() for line in unpack(path.read_bytes()).decode().splitlines()[:requests]]
    costs = np.array([float(row[4]) for row in rows]) if len(rows[0]) > 4 else None
    return make_trace("", np.array([int(row[1], 16) for row in rows]), None, costs)


_READERS: dict[str, Callable[[Path, int], Trace]] = {
    ".zst": arc,
    ".bin": read_trace,
    ".gz": addresses,
    ".xz": addresses,
}


def main() -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--requests", type=int, default=200_000)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    for name, source in SOURCES.items():
        path = options.files / source.rsplit("/", 1)[1]
        if not path.exists():
            print(f"{path} is not there: from {source}")
            continue
        trace = _READERS[path.suffix](path, options.requests)
        write_csv(trace, options.directory / f"{name}.csv")
        print(f"{name}: {len(trace.keys)} requests, {len(trace.sizes)} keys")


if __name__ == "__main__":
    main()
