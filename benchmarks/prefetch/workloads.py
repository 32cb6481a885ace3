"""Who reads what and when: seeded workloads with the habits that prefetching meets.

Invariants: the same seed gives the same reads; times ascend; a key's cost, TTL and size are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
START_S: Final = 1_700_006_400.0  # a midnight


@dataclass(frozen=True, slots=True)
class Item:
    """One key: what its value takes to compute, how long it lives, how large it is."""

    key: bytes
    cost_s: float
    ttl_s: float
    size: int


@dataclass(frozen=True)
class Workload:
    """`reads` are `(seconds, item, callers)`; several callers read the same at the same moment."""

    name: str
    reads: list[tuple[float, Item, int]]


def _item(random: Random, kind: str, number: int, ttl_s: float, median_cost_s: float = 2.0) -> Item:
    cost_s = median_cost_s * random.lognormvariate(0, 0.6)
    return Item(b"%s:%d" % (kind.encode(), number), cost_s, ttl_s, round(2000 * random.lognormvariate(0, 1)))


def regular(random: Random, days: float, keys: int = 200) -> Iterator[tuple[float, Item, int]]:
    """Dashboards: every one to fifteen minutes, a few per cent early or late, by one to four viewers."""
    for number in range(keys):
        period_s = random.choice([60.0, 120.0, 300.0, 600.0, 900.0])
        item = _item(random, "regular", number, period_s * random.choice([0.5, 0.8, 1.5, 2.5]))
        jitter = random.choice([0.01, 0.02, 0.05])
        at_s = random.uniform(0, period_s)
        while at_s < days * DAY_S:
            yield at_s + random.gauss(0, jitter * period_s), item, random.randint(1, 4)
            at_s += period_s


def daily(random: Random, days: float, keys: int = 300) -> Iterator[tuple[float, Item, int]]:
    """A batch each night at two, a few minutes early or late, one text after the other, by two workers."""
    items = [_item(random, "daily", number, random.choice([4, 8, 12, 24]) * HOUR_S) for number in range(keys)]
    for day in range(int(days)):
        begin_s = day * DAY_S + 2 * HOUR_S + random.gauss(0, 120)
        for place, item in enumerate(items):
            yield begin_s + place * 0.5, item, 2


def bursts(random: Random, days: float, keys: int = 500) -> Iterator[tuple[float, Item, int]]:
    """Documents that are opened now and then, and read several times within minutes."""
    for number in range(keys):
        item = _item(random, "burst", number, random.choice([10, 20, 30]) * 60.0)
        at_s = random.expovariate(1 / (2 * HOUR_S))
        while at_s < days * DAY_S:
            read_s = at_s
            for _ in range(random.randint(3, 10)):
                yield read_s, item, 1
                read_s += random.expovariate(1 / 20)
            at_s = read_s + random.expovariate(1 / (2 * HOUR_S))


def unordered(random: Random, days: float, keys: int = 2000) -> Iterator[tuple[float, Item, int]]:
    """Reads without memory: a key's next read never depends on its last."""
    for number in range(keys):
        item = _item(random, "random", number, random.choice([5, 10, 30]) * 60.0)
        mean_s = random.choice([5, 10, 20, 40, 60]) * 60.0
        at_s = random.expovariate(1 / mean_s)
        while at_s < days * DAY_S:
            yield at_s, item, 1
            at_s += random.expovariate(1 / mean_s)


KINDS: Final[dict[str, tuple[Callable[..., Iterator[tuple[float, Item, int]]], float]]] = {
    "regular": (regular, 0.5),
    "daily": (daily, 14.0),
    "bursts": (bursts, 1.0),
    "random": (unordered, 0.5),
}
"""Name -> the habit, and how many days of it."""
MIX_DAYS: Final = 1.0


def workload(name: str, seed: int, scale: float = 1.0) -> Workload:
    """One habit, or `mix`: all of them at once. `scale` shortens it; daily batches keep five days at least."""
    if name != "mix":
        make, days = KINDS[name]
        return _workload(
            name, list(make(Random(f"{seed} {name}"), max(days * scale, 5.0) if days > 5 else days * scale))
        )
    days = MIX_DAYS * scale
    mixed = [
        read
        for kind, (make, _) in KINDS.items()
        for read in make(Random(f"{seed} mix {kind}"), max(days, 1.0))
        if read[0] < days * DAY_S
    ]
    return _workload(name, mixed)


def _workload(name: str, reads: list[tuple[float, Item, int]]) -> Workload:
    return Workload(name, sorted(((START_S + at_s, item, callers) for at_s, item, callers in reads), key=_when))


def _when(read: tuple[float, Item, int]) -> float:
    return read[0]
