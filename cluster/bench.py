"""Measuring a running cache from here: what `stratacache bench` does.

It writes into a namespace of its own, which it empties before and after; what it reads back must be what it wrote.

Invariants: keys and values follow from their number, so two runs ask the same; a wrong value ends the run with an
error; whatever happens, the namespace is emptied when nobody writes to it any more.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from stratacache.node.errors import CorruptionError, UnavailableError
from stratacache.node.types import MISS

if TYPE_CHECKING:
    from stratacache.client import CacheClient

NAMESPACE: Final = "stratacache-bench"
WORKLOADS: Final = ("put", "get", "put_many", "get_many")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is asked: `seconds` for each workload, `keys` values of `value_bytes`, `batch` at once, by `clients`."""

    seconds: float
    keys: int
    value_bytes: int
    batch: int
    clients: int
    workloads: tuple[str, ...] = WORKLOADS


@dataclass
class Result:
    """What a workload took: operations on keys, and the time of each call."""

    calls: int = 0
    keys: int = 0
    failed: int = 0
    call_s: list[float] = field(default_factory=list)

    def summary(self, elapsed_s: float) -> dict[str, Any]:
        """Figures as plain values. `failed` are puts that were not stored and gets that missed."""
        times = sorted(self.call_s)
        return {
            "calls": self.calls,
            "keys_per_s": round(self.keys / elapsed_s, 1) if elapsed_s else 0.0,
            "failed": self.failed,
            **{f"p{part}_us": round(_quantile(times, part / 100) * 1e6, 1) for part in (50, 99)},
        }


def run(cache: CacheClient, plan: Plan, progress: Callable[[str, float], None]) -> dict[str, Any]:
    """Run the workloads one after the other; `progress` is told the workload and the part of it that is done."""
    shards = cache.ping()
    values = [random.Random(number).randbytes(plan.value_bytes) for number in range(min(plan.keys, 256))]  # noqa: S311
    found: dict[str, Any] = {}
    cache.invalidate_namespace(NAMESPACE)
    try:
        _fill(cache, plan, values)
        for workload in plan.workloads:
            found[workload] = _measured(cache, plan, workload, values, progress)
    finally:
        cache.invalidate_namespace(NAMESPACE)
    return {
        "shards": len(cache.view.shards),
        "ping_us": {shard: round(seconds * 1e6, 1) for shard, seconds in shards.items()},
        "plan": {
            "seconds": plan.seconds,
            "keys": plan.keys,
            "value_bytes": plan.value_bytes,
            "batch": plan.batch,
            "clients": plan.clients,
        },
        "workloads": found,
    }


def _fill(cache: CacheClient, plan: Plan, values: list[bytes]) -> None:
    for first in range(0, plan.keys, plan.batch):
        numbers = range(first, min(first + plan.batch, plan.keys))
        items = {f"k{number}": values[number % len(values)] for number in numbers}
        if cache.put_many(items, namespace=NAMESPACE) != len(items):
            raise UnavailableError("the cache does not take what is put: see `stratacache status`")


def _measured(
    cache: CacheClient, plan: Plan, workload: str, values: list[bytes], progress: Callable[[str, float], None]
) -> dict[str, Any]:
    begun = time.perf_counter()
    until = begun + plan.seconds
    results = [Result() for _ in range(plan.clients)]
    errors: list[BaseException] = []
    stop = threading.Event()

    def work(result: Result, seed: int) -> None:
        try:
            for keys in _batches(plan, workload, seed):
                _call(cache, workload, keys, values, result)
                if stop.is_set() or time.perf_counter() >= until:
                    return
        except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(result, seed), daemon=True) for seed, result in enumerate(results)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            threads[0].join(0.1)
            progress(workload, min(1.0, (time.perf_counter() - begun) / plan.seconds))
            for thread in threads[1:]:
                thread.join(0.01)
    finally:  # also when it is interrupted: nothing may be put behind the last invalidation
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    whole = Result()
    for result in results:
        whole.calls += result.calls
        whole.keys += result.keys
        whole.failed += result.failed
        whole.call_s += result.call_s
    return whole.summary(time.perf_counter() - begun)


def _batches(plan: Plan, workload: str, seed: int) -> Iterator[list[int]]:
    """Numbers of keys, without end: one at a time, or distinct ones in batches."""
    chooser = random.Random(seed)  # noqa: S311 - a choice of keys
    many = workload.endswith("_many")
    count = min(plan.batch, plan.keys)
    while True:
        yield chooser.sample(range(plan.keys), count) if many else [chooser.randrange(plan.keys)]


def _call(cache: CacheClient, workload: str, numbers: list[int], values: list[bytes], result: Result) -> None:
    wanted = {f"k{number}": values[number % len(values)] for number in numbers}
    key, value = next(iter(wanted.items()))
    begun = time.perf_counter()
    match workload:
        case "put":
            stored = int(cache.put(key, value, namespace=NAMESPACE))
        case "put_many":
            stored = cache.put_many(wanted, namespace=NAMESPACE)
        case "get":
            read = cache.get(key, namespace=NAMESPACE)
            found = {} if read is MISS else {key: read}
        case _:
            found = cache.get_many(wanted, namespace=NAMESPACE)
    result.call_s.append(time.perf_counter() - begun)
    result.calls += 1
    result.keys += len(wanted)
    if workload.startswith("get"):
        stored = len(found)
        for each, got in found.items():
            if got != wanted[each]:
                raise CorruptionError(f"the cache gave another value for {each!r} than was put")
    result.failed += len(wanted) - stored


def _quantile(times: list[float], part: float) -> float:
    return times[min(len(times) - 1, int(part * len(times)))] if times else 0.0
