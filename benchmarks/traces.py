"""Request traces as arrays: who asked for what, how large it is, what it costs to compute.

Invariants: keys are dense numbers from 0 in order of first request; size and cost belong to the key (the first that is
seen for it), so that every policy meets the same objects.
"""

from __future__ import annotations

import csv
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ORACLE = np.dtype([("time", "<u4"), ("key", "<u8"), ("size", "<u4"), ("next", "<i8")])
"""A record of libCacheSim's oracleGeneral form."""


@dataclass(frozen=True, slots=True)
class Trace:
    """`keys` (int64) has one element a request; `sizes` (int64, bytes) and `costs` (float64, seconds) one a key."""

    name: str
    keys: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    costs: npt.NDArray[np.float64]

    @property
    def next_use(self) -> npt.NDArray[np.int64]:
        """For each request the number of the next one for the same key, or -1."""
        order = np.argsort(self.keys, kind="stable")
        same = self.keys[order[1:]] == self.keys[order[:-1]]
        following = np.full(len(self.keys), -1, np.int64)
        following[order[:-1][same]] = order[1:][same]
        return following


def make_trace(name: str, keys: npt.ArrayLike, sizes: Any = None, costs: Any = None) -> Trace:
    """Number the keys by first request; `sizes` and `costs` have one element a request (default 1)."""
    _, first, inverse = np.unique(np.asarray(keys), return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    order = np.argsort(first)
    rank[order] = np.arange(len(first))
    at = first[order]
    return Trace(
        name,
        rank[inverse],
        np.ones(len(at), np.int64) if sizes is None else np.maximum(np.asarray(sizes)[at].astype(np.int64), 1),
        np.ones(len(at)) if costs is None else np.asarray(costs)[at].astype(np.float64),
    )


def read_trace(path: Path, requests_max: int | None = None, cost_rule: str = "column") -> Trace:
    """Read oracleGeneral (also .xz and .zst), Mooncake JSONL, or CSV with a header (key, and perhaps size, cost).

    `cost_rule`: `column` takes the cost column (1 where there is none), `unit` is 1, `size` is 1 ms a KiB, `lognormal`
    draws exp(N(0, 1.5)) seconds for each key, from a fixed seed.
    """
    raw = read_raw(path)
    bare = path.name.removesuffix(".xz").removesuffix(".zst")
    keys: Any
    sizes = costs = None
    if bare.endswith((".jsonl", ".json")):
        keys = [block for line in raw.splitlines() if line.strip() for block in json.loads(line)["hash_ids"]]
        name = bare.rsplit(".", 1)[0]
    elif bare.endswith(".csv"):
        rows = list(csv.DictReader(raw.decode().splitlines()))
        keys = [row["key"] for row in rows]
        sizes = [int(float(row["size"])) for row in rows] if rows and "size" in rows[0] else None
        costs = [float(row["cost"]) for row in rows] if rows and "cost" in rows[0] else None
        name = bare.removesuffix(".csv")
    else:
        records = np.frombuffer(raw[: len(raw) // ORACLE.itemsize * ORACLE.itemsize], ORACLE)
        keys, sizes = records["key"], records["size"]
        name = bare.split(".oracleGeneral")[0]
    cut = slice(None, requests_max)
    trace = make_trace(name, keys[cut], None if sizes is None else sizes[cut], None if costs is None else costs[cut])
    if cost_rule == "column":
        return trace
    rules = {
        "unit": lambda: np.ones(len(trace.sizes)),
        "size": lambda: trace.sizes / 1024 / 1000,
        "lognormal": lambda: np.exp(1.5 * np.random.default_rng(0).standard_normal(len(trace.sizes))),
    }
    return Trace(trace.name, trace.keys, trace.sizes, rules[cost_rule]())


def read_raw(path: Path) -> bytes:
    """The bytes of a file, unpacked if it ends in .xz or .zst."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            return bytes(reader.read())
    return data
