"""One load process: it writes its own keys, reads everybody's, and checks each read against the oracle.

Two kinds of keys. `put` keys are put, overwritten and invalidated by their writer. `fill` keys are never put: their
writer raises the truth and invalidates (by key, by tag, by namespace), and readers fill them with what the truth was
when their computation began: the race of every cache-aside pipeline.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from stratacache.client import MISS, InvalidationIncompleteError, UnavailableError, connect
from stratacache.client.ring import Ring
from stratacache.client.view import View
from tests.chaos.oracle import Slots, fault_of, value_of

NAMESPACES = ("put", "fill")
NEVER = (0.0, 0.0, "", "")
NAMESPACE_OF = {"get": "put", "put": "put", "fill": "fill"}
DEADLINE_S = 2.0
SLACK_S = 3.0  # a loaded machine may not run a process for seconds


@dataclass
class Found:
    """What one process saw.

    `away`: for each kind of call, the longest time from the first that failed in a shard's range to the next good one
    there, the moment when it began, the shard, and what the last one that failed was told.
    """

    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    away: dict[str, tuple[float, float, str, str]] = field(default_factory=dict)
    slowest_s: float = 0.0


class Worker:
    """The load of one process: `number` of `processes`. `ring` tells the shards' ranges, which stay the same."""

    def __init__(
        self, address: str, token: str | None, ring: Ring, number: int, processes: int, slots: dict[str, Slots]
    ) -> None:
        self.ring = ring
        self.cache = connect(address, token=token, strict=True, deadline_s=DEADLINE_S)
        self.number = number
        self.slots = slots
        count = len(slots["put"].truth)
        self.own = range(number, count, processes)
        self.all = range(count)
        self.found = Found()
        self.failing_since: dict[tuple[str, str], float] = {}
        self.told: dict[tuple[str, str], str] = {}

    def name(self, kind: str, index: int) -> str:
        """The key's present name."""
        return f"{kind}-{index}.{self.slots[kind].generation[index]}"

    def step(self, chooser: random.Random) -> None:
        """One random operation."""
        index = chooser.choice(self.all)
        mine = chooser.choice(self.own)
        roll = chooser.random()
        if roll < 0.40:
            self.read(index)
        elif roll < 0.75:
            self.fill(index)
        elif roll < 0.90:
            self.put(mine)
        elif roll < 0.95:
            self.forget(mine)
        else:
            self.change(mine, chooser)

    def read(self, index: int) -> None:
        """Get a `put` key of anybody."""
        slots = self.slots["put"]
        key, floor = self.name("put", index), slots.floor[index]
        value = self._call("get", key, lambda: self.cache.get(key, namespace="put"))
        if value is not None and value is not MISS:
            self.found.counts["hits"] += 1
            if self.name("put", index) == key:
                self._check(fault_of(key, floor, value))

    def fill(self, index: int) -> None:
        """Get a `fill` key of anybody, or compute it from the truth of this moment."""
        slots = self.slots["fill"]
        key, floor = self.name("fill", index), slots.floor[index]
        computed = False

        def compute() -> dict[str, Any]:
            nonlocal computed
            computed = True
            return value_of(key, slots.truth[index])

        tags = [f"owner-{index % 7}"]
        value = self._call(
            "fill", key, lambda: self.cache.get_or_compute(key, compute, namespace="fill", tags=tags, ttl=300)
        )
        if value is not None:
            self.found.counts["computed" if computed else "hits"] += 1
            self._check(fault_of(key, floor, value))

    def put(self, index: int) -> None:
        """Put the next version of an own key."""
        slots = self.slots["put"]
        key, version = self.name("put", index), slots.truth[index] + 1
        slots.truth[index] = version
        value = value_of(key, version)
        if self._call("put", key, lambda: self.cache.put(key, value, namespace="put", ttl=300)):
            slots.floor[index] = version
        else:
            slots.floor[index] = version + 1
            self._retire(index)

    def _retire(self, index: int) -> None:
        """A fresh key takes an own `put` key's place, in the same shard's range: it would not be asked for any more."""
        shard = self.shard_of("put", self.name("put", index))
        while True:
            self.slots["put"].generation[index] += 1
            if self.shard_of("put", self.name("put", index)) == shard:
                return

    def shard_of(self, kind: str, key: str) -> str:
        """The shard in whose range a key lies."""
        return self.ring.primary(f"{kind}:{key}".encode()).id

    def forget(self, index: int) -> None:
        """Invalidate an own `put` key."""
        slots = self.slots["put"]
        key = self.name("put", index)
        self._invalidate("key", lambda: self.cache.invalidate(key, namespace="put"))
        slots.floor[index] = slots.truth[index] + 1
        slots.truth[index] += 1

    def change(self, index: int, chooser: random.Random) -> None:
        """Change the truth of an own `fill` key, then invalidate it: by key, by its tag, or by its namespace."""
        slots = self.slots["fill"]
        slots.truth[index] += 1
        key = self.name("fill", index)
        kind = chooser.choice(("key", "tag", "tag", "namespace"))
        if kind == "key":
            self._invalidate(kind, lambda: self.cache.invalidate(key, namespace="fill"))
        elif kind == "tag":
            self._invalidate(kind, lambda: self.cache.invalidate_tags([f"owner-{index % 7}"]))
        else:
            self._invalidate(kind, lambda: self.cache.invalidate_namespace("fill"))
        slots.floor[index] = slots.truth[index]

    def _invalidate(self, kind: str, act: Any) -> None:
        """Invalidate until it is acknowledged."""
        while True:
            self.found.counts[f"invalidations by {kind}"] += 1
            try:
                act()
            except (InvalidationIncompleteError, UnavailableError):
                self.found.counts["invalidations repeated"] += 1
                time.sleep(0.05)  # the client has tried for its deadline already
            else:
                return

    def _call(self, what: str, key: str, act: Any) -> Any:
        """One call, timed; None when the cache could not answer."""
        started = time.monotonic()
        place = what, self.shard_of(NAMESPACE_OF[what], key)
        self.found.counts[what] += 1
        try:
            result = act()
        except UnavailableError as error:
            self.found.counts["unavailable"] += 1
            self.told[place] = str(error)
            self.failing_since.setdefault(place, started)
            result = None
        else:
            self._back(place)
        took_s = time.monotonic() - started
        self.found.slowest_s = max(self.found.slowest_s, took_s)
        if took_s > 2 * DEADLINE_S + SLACK_S:
            self._check(f"I5: {what} of {key} took {took_s:.1f} s, the deadline is {DEADLINE_S} s")
        return result

    def _back(self, place: tuple[str, str]) -> None:
        """Calls of a kind succeed again in a shard's range, or nobody waits for it any more."""
        since = self.failing_since.pop(place, None)
        if since is not None:
            what, shard = place
            longest = self.found.away.get(what, NEVER)
            self.found.away[what] = max(longest, (time.monotonic() - since, since, shard, self.told[place]))

    def finish(self) -> Found:
        """What was seen, with what is still away."""
        for place in list(self.failing_since):
            self._back(place)
        return self.found

    def _check(self, fault: str | None) -> None:
        if fault is not None:
            self.found.faults.append(fault)


def run(
    address: str,
    token: str | None,
    view: bytes,
    number: int,
    processes: int,
    slots: dict[str, Slots],
    seed: int,
    stop: Any,
    out: Any,
) -> None:
    """The body of a load process: random operations until told to stop, then what was seen goes to `out`."""
    worker = Worker(address, token, Ring(View.from_bytes(view)), number, processes, slots)
    chooser = random.Random(f"{seed}/{number}")
    while not stop.is_set():
        worker.step(chooser)
    out.put(worker.finish())
