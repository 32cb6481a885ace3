"""Seeded generators of three kinds of workload that the constants of INTELLIGENT were not chosen on.

    python -m benchmarks.workloads DIRECTORY [--seeds 101,102,103] [--requests 120000]

writes one CSV (key,size,cost) for each kind and seed. A seed draws the parameters too, over wide ranges, so that two
seeds are two different systems of a kind and not two runs of one:

    block    a volume of 20,000 to 120,000 blocks: files (Zipf) read in runs, spots that are overwritten again and
             again, a circular journal, runs at random places, and a backup that reads a part of the volume in order
             every so often, slowly, between the rest; what runs, and how long, changes by bursts
    web      objects that are born, are asked for (Pareto popularity) while they live (lognormal), and are forgotten,
             beside a Zipf catalogue that stays; up to half one-hit wonders; sizes lognormal with a Pareto tail; cost
             is 1, or for even seeds a round trip plus the time for the bytes
    agents   sessions of users who come back: each turn asks for the whole prefix (one of a few system prompts, often
             documents of a Zipf library, all turns before), tool calls follow within seconds, people think for
             minutes or come back after hours; blocks of equal size

Invariants: the same seed and length give the same trace on every machine; size and cost belong to the key. The
distributions are stated assumptions, not measurements.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.ai_traces import write_csv, zipf
from benchmarks.traces import Trace, make_trace

Draw = np.random.Generator
Keys = npt.NDArray[np.int64]

_FILES, _SPOTS, _JOURNAL, _ANYWHERE = range(4)


def block(draw: Draw, requests: int) -> Trace:
    """One volume under several programs at once."""
    blocks = int(draw.integers(20_000, 120_000))
    lengths = np.minimum(1 + draw.pareto(draw.uniform(0.9, 1.6), blocks) * draw.uniform(2, 12), blocks / 20).astype(int)
    ends = np.cumsum(lengths)
    files = max(20, int(np.searchsorted(ends, blocks)))
    popular = draw.permutation(files)[zipf(draw, requests, files, draw.uniform(0.5, 1.1))]
    spots = draw.integers(0, blocks, int(draw.integers(2, 12)))
    spread = float(np.exp(draw.uniform(np.log(50), np.log(blocks / 30))))
    journal = (int(draw.integers(0, blocks)), int(np.exp(draw.uniform(np.log(200), np.log(blocks / 8)))))
    shares = draw.dirichlet((2.0, 2.0, 0.7, 0.7))
    backup_share, backup_every = draw.uniform(0.1, 1.0), int(draw.uniform(0.15, 0.6) * requests)
    asked: list[int] = []
    written = next_file = 0
    copying = int(draw.uniform(0, backup_every))  # the request at which the next backup begins
    copied = blocks
    while len(asked) < requests:
        kind = int(draw.choice(4, p=shares))
        burst = 1 + int(draw.exponential(40))
        if kind == _FILES:
            for _ in range(1 + burst // 20):
                file = int(popular[next_file % requests])
                next_file += 1
                asked.extend(range(int(ends[file] - lengths[file]), int(ends[file])))
        elif kind == _SPOTS:
            asked.extend(int(at) % blocks for at in draw.choice(spots) + spread * draw.standard_normal(burst))
        elif kind == _JOURNAL:
            asked.extend(journal[0] + number % journal[1] for number in range(written, written + burst))
            written += burst
        else:
            start = int(draw.integers(0, blocks))
            asked.extend(range(start, start + burst))
        if copied >= backup_share * blocks and len(asked) >= copying:
            copied, copying = 0, copying + backup_every
        if copied < backup_share * blocks:
            asked.extend(range(copied, copied + 32))
            copied += 32
    return make_trace("block", np.array(asked[:requests], np.int64))


def web(draw: Draw, requests: int, *, costs: bool = False) -> Trace:
    """Objects that come and go, beside some that stay."""
    staying = zipf(draw, requests, int(draw.integers(2_000, 30_000)), draw.uniform(0.6, 1.05))
    objects = int(draw.uniform(0.04, 0.25) * requests)
    weights = np.minimum(draw.pareto(draw.uniform(0.9, 1.8), objects), 1000.0)
    chosen = draw.choice(objects, requests, p=weights / weights.sum())
    born = draw.uniform(-0.2, 1.0, objects)
    lives = np.exp(np.log(draw.uniform(0.01, 0.2)) + draw.uniform(0.5, 1.5) * draw.standard_normal(objects))
    when = born[chosen] + lives[chosen] * draw.exponential(1.0, requests)
    moment = np.linspace(0, 1, requests)
    coming = chosen[np.argsort(when, kind="stable")]
    shares = draw.dirichlet((2.0, 2.0, 1.0)) * np.array([1, 1, 0.7])
    kind = draw.choice(3, requests, p=shares / shares.sum())
    # The objects that come and go are asked for in the order of their times, spread over the whole.
    at = np.minimum((moment * requests).astype(np.int64), requests - 1)
    keys = np.select([kind == 0, kind == 1], [staying, 10**6 + coming[at]], 10**8 + np.arange(requests))
    found, inverse = np.unique(keys, return_inverse=True)
    body = np.exp(draw.uniform(7.5, 10.5) + draw.uniform(0.7, 1.6) * draw.standard_normal(len(found)))
    tail = draw.random(len(found)) < draw.uniform(0.01, 0.1)
    sizes = np.where(tail, body * (1 + draw.pareto(draw.uniform(1.1, 1.8), len(found))) * 4, body)
    sizes = np.ceil(np.clip(sizes, 64, 2e8))
    cost = 0.03 * np.exp(0.8 * draw.standard_normal(len(found))) + sizes / draw.uniform(2e6, 5e7) if costs else None
    return make_trace("web", keys, sizes[inverse], None if cost is None else cost[inverse])


def agents(draw: Draw, requests: int) -> Trace:
    """Prefixes that grow by turns, of sessions that pause and come back."""
    prompts = [int(length) for length in draw.integers(2, 40, int(draw.integers(2, 12)))]
    library = int(draw.integers(100, 1500))
    popular = zipf(draw, requests, library, draw.uniform(0.6, 1.1))
    lengths = np.minimum(1 + draw.pareto(1.3, library) * draw.uniform(1, 6), 60).astype(int)
    tool, person = draw.uniform(0.4, 0.9), draw.uniform(20, 200)
    returning, arriving, added = draw.uniform(0.02, 0.25), draw.uniform(2, 40), draw.uniform(1, 6)
    asked: list[int] = []
    new = 10**7
    documents = 0
    waiting: list[tuple[float, int, list[int]]] = []  # (when, number, prefix)
    sessions = 0
    next_arrival = 0.0
    while len(asked) < requests:
        if not waiting or next_arrival <= waiting[0][0]:
            kind = int(zipf(draw, 1, len(prompts), 1.0)[0])
            prefix = [-(kind * 1000 + at + 1) for at in range(prompts[kind])]
            sessions += 1
            heapq.heappush(waiting, (next_arrival, sessions, prefix))
            next_arrival += draw.exponential(arriving)
            continue
        now, number, prefix = heapq.heappop(waiting)
        if draw.random() < 0.3 and len(prefix) < 400:
            document = int(popular[documents % requests])
            documents += 1
            asked.extend(document * 100 + at for at in range(lengths[document]))
        grown = int(draw.geometric(1 / added))
        prefix = [*prefix, *range(new, new + grown)]
        new += grown
        asked.extend(prefix)
        fate = draw.random()
        if fate < tool:
            pause = float(draw.lognormal(1.0, 1.0))
        elif fate < tool + (1 - tool) * (1 - returning) * 0.7:
            pause = float(draw.lognormal(np.log(person), 1.2))
        elif draw.random() < returning:
            pause = float(draw.lognormal(np.log(40 * person), 1.0))
        else:
            continue
        if len(prefix) < 500:
            heapq.heappush(waiting, (now + pause, number, prefix))
    return make_trace("agents", np.array(asked[:requests], np.int64))


def make_one(kind: str, seed: int, requests: int) -> Trace:
    """The trace of a kind and a seed, named after both."""
    draw = np.random.Generator(np.random.PCG64([seed, len(kind)]))
    makers: dict[str, Callable[[], Trace]] = {
        "block": lambda: block(draw, requests),
        "web": lambda: web(draw, requests, costs=seed % 2 == 0),
        "agents": lambda: agents(draw, requests),
    }
    trace = makers[kind]()
    return Trace(f"{kind}-{seed}", trace.keys, trace.sizes, trace.costs)


def main() -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", default="101,102,103")
    parser.add_argument("--requests", type=int, default=120_000)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    for kind in ("block", "web", "agents"):
        for seed in map(int, options.seeds.split(",")):
            trace = make_one(kind, seed, options.requests)
            path = options.directory / f"{trace.name}.csv"
            write_csv(trace, path)
            print(f"{path}: {len(trace.keys)} requests, {len(trace.sizes)} keys, {trace.sizes.sum() / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
