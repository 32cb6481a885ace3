"""Synthetic request traces of AI operations, with sizes and costs, from a seed.

    python -m benchmarks.ai_traces DIRECTORY [--seed 0] [--requests 60000]

writes one CSV (key,size,cost) for each of:

    embeddings  Zipf(0.8) over 1/6 as many texts as requests; 6,208 bytes each (1,536 float32); cost lognormal with
                median 12 ms, sigma 0.3
    answers     Zipf(1.0) over 1/10, the ranking moving on by one key every 20 requests; size lognormal with median
                2 KB, sigma 0.8; cost lognormal with median 3 s, sigma 0.8
    tensors     40 sessions at a time, recent ones more often; each step asks for all that the session has used and adds
                3 on average; size lognormal with median 440 KB, sigma 1.2; cost lognormal with median 0.3 s, sigma 0.7
    mix         40 % embeddings, 30 % answers, 15 % tensors, shuffled, cut by five one-off scans of new texts (15 %)
    shifting    embeddings, then tensors, then answers, a third each

Invariants: the same seed and length give the same files on every machine; size and cost belong to the key. The
distributions are stated assumptions about such workloads, not measurements of one.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.traces import Trace, make_trace

Keys = npt.NDArray[np.int64]
Draw = np.random.Generator
Part = tuple[Keys, npt.NDArray[np.float64], npt.NDArray[np.float64]]


def zipf(draw: Draw, requests: int, keys: int, power: float) -> Keys:
    """Ranks from 0, the most frequent first."""
    weights = np.cumsum(1 / np.arange(1, keys + 1) ** power)
    return np.searchsorted(weights / weights[-1], draw.random(requests))


def sessions(draw: Draw, requests: int, open_at_once: int, added_mean: float, steps_mean: float = 12) -> Keys:
    """Sessions that ask at each step for everything they have used, and for something new."""
    asked: list[int] = []
    following = 0
    held: list[list[int]] = []
    while len(asked) < requests:
        while len(held) < open_at_once:
            held.append([])
        session = held.pop(min(int(draw.geometric(0.06)) - 1, open_at_once - 1))
        added = int(draw.geometric(1 / added_mean))
        session.extend(range(following, following + added))
        following += added
        asked.extend(session)
        if draw.random() > 1 / steps_mean:
            held.insert(0 if draw.random() < 0.5 else len(held), session)
    return np.array(asked[:requests], np.int64)


def _of_key(keys: Keys, values: Callable[[int], npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    found, inverse = np.unique(keys, return_inverse=True)
    return values(len(found))[inverse]


def _lognormal(draw: Draw, median: float, sigma: float) -> Callable[[int], npt.NDArray[np.float64]]:
    return lambda count: np.exp(np.log(median) + sigma * draw.standard_normal(count))


def embeddings(draw: Draw, requests: int) -> Part:
    """Small, equal and cheap."""
    keys = zipf(draw, requests, max(10, requests // 6), 0.8)
    return keys, np.full(requests, 6208.0), _of_key(keys, _lognormal(draw, 0.012, 0.3))


def answers(draw: Draw, requests: int) -> Part:
    """Small and dear, of drifting popularity."""
    keys = 10**7 + zipf(draw, requests, max(10, requests // 10), 1.0) + np.arange(requests) // 20
    return keys, _of_key(keys, _lognormal(draw, 2000, 0.8)), _of_key(keys, _lognormal(draw, 3.0, 0.8))


def tensors(draw: Draw, requests: int) -> Part:
    """Large, of sessions."""
    keys = 2 * 10**7 + sessions(draw, requests, 40, 3)
    return keys, _of_key(keys, _lognormal(draw, 440_000, 1.2)), _of_key(keys, _lognormal(draw, 0.3, 0.7))


def scan(draw: Draw, requests: int, number: int) -> Part:
    """Texts that are asked for once."""
    keys = 10**9 * (number + 1) + np.arange(requests, dtype=np.int64)
    return keys, np.full(requests, 6208.0), np.exp(np.log(0.012) + 0.3 * draw.standard_normal(requests))


def _joined(name: str, parts: list[Part], order: Keys | None = None) -> Trace:
    keys, sizes, costs = (np.concatenate([part[column] for part in parts]) for column in range(3))
    at = slice(None) if order is None else order
    return make_trace(name, keys[at], np.ceil(sizes[at]), costs[at])


def mix(draw: Draw, requests: int) -> Trace:
    """All three at once, with scans between."""
    shares = (int(0.4 * requests), int(0.3 * requests), int(0.15 * requests))
    parts = [make(draw, share) for make, share in zip((embeddings, answers, tensors), shares, strict=True)]
    label = np.repeat(np.arange(3), shares)
    draw.shuffle(label)
    order = np.empty(len(label), np.int64)
    for kind in range(3):  # shuffled between the kinds, in order within each
        order[label == kind] = sum(shares[:kind]) + np.arange(shares[kind])
    length = (requests - sum(shares)) // 5
    base = sum(shares)
    cuts = sorted(int(cut) for cut in draw.integers(0, base, 5))
    pieces = np.split(order, cuts)
    for number in range(5):
        parts.append(scan(draw, length, number))
        pieces[number] = np.concatenate([pieces[number], base + number * length + np.arange(length)])
    return _joined("ai-mix", parts, np.concatenate(pieces))


def make_all(seed: int = 0, requests: int = 60_000) -> list[Trace]:
    """All five traces."""
    single = {"embeddings": embeddings, "answers": answers, "tensors": tensors}
    draws = [np.random.Generator(np.random.PCG64([seed, number])) for number in range(5)]
    traces = [
        _joined(f"ai-{name}", [make(draw, requests)])
        for draw, (name, make) in zip(draws[:3], single.items(), strict=True)
    ]
    traces.append(mix(draws[3], requests))
    thirds = [make(draws[4], requests // 3) for make in (embeddings, tensors, answers)]
    return [*traces, _joined("ai-shifting", thirds)]


def write_csv(trace: Trace, path: Path) -> None:
    """Write key, size, cost for each request."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("key", "size", "cost"))
        sizes, costs = trace.sizes[trace.keys].tolist(), trace.costs[trace.keys].tolist()
        writer.writerows(
            (key, size, f"{cost:.6g}") for key, size, cost in zip(trace.keys.tolist(), sizes, costs, strict=True)
        )


def main() -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, default=60_000)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    for trace in make_all(options.seed, options.requests):
        path = options.directory / f"{trace.name}.csv"
        write_csv(trace, path)
        print(f"{path}: {len(trace.keys)} requests, {len(trace.sizes)} keys, {trace.sizes.sum() / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
