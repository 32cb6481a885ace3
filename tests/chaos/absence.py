"""A shard that is away while what it holds is invalidated: it comes back with its disk, and gives not one stale value.

`python -m tests.chaos.absence --seconds 60`, or `make absence SECONDS=60`: three rounds on one cluster of real
processes. In each, one of three shards is killed and kept away for that long; meanwhile 1,000 tags and a key are
invalidated, and readers ask all the time for what has been. In the second round the coordinator is killed too, in the
third the others record more than a debt log holds. Exit status 1 when anything stale was read, or the disk came back
colder than it may.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stratacache.client import MISS, CacheClient, connect
from stratacache.client.ring import Ring
from stratacache.client.view import SUSPENDED
from stratacache.cluster import ClusterHandle, start
from stratacache.cluster.debts import DEBT_BYTES_MAX
from stratacache.node.errors import UnavailableError
from stratacache.node.groups import TAG_BYTES_MAX
from tests.cluster.waiting import Busy, take_lock, wait_flushed, wait_until

ROUNDS = ("plain", "coordinator killed", "log overflowed")
VICTIM = "shard-1"
TAGS = 1_000
BATCHES = 10
GOOD = 300
LEASE_MS = 2_000


class Readers(Busy):
    """Threads that ask without pause for keys whose invalidation has been acknowledged: any value is stale."""

    def __init__(self, handle: ClusterHandle) -> None:
        super().__init__()
        self.handle = handle
        self.forgotten: list[str] = []
        self.stale: list[str] = []
        self.reads = 0
        self.unanswered = 0

    def work(self, number: int) -> None:
        chance = random.Random(number)
        with connect(self.handle.address, token=self.handle.token, strict=True, deadline_s=2.0) as cache:
            while not self.stop.is_set():
                if not self.forgotten:
                    time.sleep(0.01)
                    continue
                key = chance.choice(self.forgotten)
                try:
                    value = cache.get(key)
                except UnavailableError:
                    self.unanswered += 1
                else:
                    self.reads += 1
                    if value is not MISS:
                        self.stale.append(f"{key} gave {value!r} after its invalidation")


def absence(handle: ClusterHandle, cache: CacheClient, data_dir: Path, kind: str, seconds: float) -> dict[str, Any]:
    """One round: VICTIM is away for that long at least; gives what was seen."""
    stale = [f"stale-{kind}-{number}" for number in range(TAGS)]
    good = [f"good-{kind}-{number}" for number in range(GOOD)]
    for key in stale:
        cache.put(key, key, tags=[f"tag {key}"])
    cache.put_many({key: key for key in good})
    ring = Ring(handle.view)
    owned = [key for key in good if ring.primary(key.encode()).id == VICTIM]
    wait_flushed(handle, VICTIM)
    with Readers(handle) as readers:
        with kept_away(handle, data_dir):
            begun = time.monotonic()
            for number in range(BATCHES):
                if kind == "coordinator killed" and number == BATCHES // 2:
                    kill_coordinator(handle)
                batch = stale[number * TAGS // BATCHES : (number + 1) * TAGS // BATCHES]
                cache.invalidate_tags({f"tag {key}" for key in batch})
                readers.forgotten += batch
                if kind == "log overflowed" and number == BATCHES // 2:
                    overflow_logs(cache)
                wait_until(lambda due=begun + seconds * (number + 1) / BATCHES: time.monotonic() >= due, seconds + 1)
            cache.invalidate(owned[0])
            readers.forgotten.append(owned[0])
            away_s = time.monotonic() - begun
        wait_until(lambda: is_ready(handle), 60, f"the return of {VICTIM}")
        wait_until(lambda: answers(cache, owned[1]), what="the client's look at the new view")
        seen = readers.reads
        wait_until(lambda: readers.reads >= seen + 2 * TAGS, what="reads of what came back")
    left = cache.get_many(stale)
    kept = cache.get_many(good)
    return {
        "round": kind,
        "away_s": round(away_s, 1),
        "reads_of_invalidated_keys": readers.reads,
        "unanswered": readers.unanswered,
        "stale": readers.stale[:10] + [f"{key} is still there" for key in [*left, *(kept.keys() & {owned[0]})]],
        "kept_by_others": f"{len(kept.keys() - set(owned))} of {GOOD - len(owned)}",
        "kept_on_its_disk": f"{len(kept.keys() & set(owned))} of {len(owned) - 1}",
    }


def expected(kind: str, report: dict[str, Any]) -> bool:
    """Whether a round showed what is promised: nothing stale, and a disk that is dropped only without a whole log."""
    here, _, all_here = report["kept_on_its_disk"].partition(" of ")
    others, _, all_others = report["kept_by_others"].partition(" of ")
    warm = here == ("0" if kind == "log overflowed" else all_here)
    return not report["stale"] and warm and others == all_others


@contextmanager
def kept_away(handle: ClusterHandle, data_dir: Path) -> Iterator[None]:
    """VICTIM is killed, and its next process waits for its home as long as this lasts."""
    with (data_dir / handle.name / VICTIM / "lock").open("r+b") as lock:
        os.kill(handle.pids()[VICTIM], signal.SIGKILL)
        take_lock(lock)
        wait_until(lambda: handle.view.by_id[VICTIM].state == SUSPENDED, what="the suspension")
        yield


def kill_coordinator(handle: ClusterHandle) -> None:
    """SIGKILL to the coordinator's process."""
    import ray

    pid = ray.get(handle._coordinator.__ray_call__.remote(lambda _: os.getpid()), timeout=20)
    os.kill(pid, signal.SIGKILL)


def overflow_logs(cache: CacheClient) -> None:
    """Invalidate more names than a debt log may hold."""
    at_once = 512
    for first in range(0, DEBT_BYTES_MAX // TAG_BYTES_MAX + at_once, at_once):
        cache.invalidate_tags({f"{number:0{TAG_BYTES_MAX}d}" for number in range(first, first + at_once)})


def is_ready(handle: ClusterHandle) -> bool:
    """Whether all shards serve; a coordinator that is just coming back says nothing."""
    try:
        return bool(handle.status()["ready"])
    except UnavailableError:
        return False


def answers(cache: CacheClient, key: str) -> bool:
    """Whether the key's shard serves, as far as this client knows: it looks for a newer view only now and then."""
    try:
        cache.get(key)
    except UnavailableError:
        return False
    return True


@contextmanager
def cluster_with_disks(data_dir: Path) -> Iterator[tuple[ClusterHandle, CacheClient]]:
    """Three shards with an L3, and a strict client of them."""
    sizes = {"l1_bytes_max": 32 << 20, "l2_bytes_max": 0, "l3_bytes_max": 64 << 20}
    with (
        start(name="absence", shards=3, lease_ms=LEASE_MS, data_dir=str(data_dir), **sizes) as handle,
        connect(handle.address, token=handle.token, strict=True, deadline_s=10.0) as cache,
    ):
        yield handle, cache


def main() -> int:
    """Parse the arguments, run the rounds, print what each one saw."""
    import ray

    parser = argparse.ArgumentParser(prog="python -m tests.chaos.absence", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the shard is away, in each round")
    options = parser.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    failed = 0
    try:
        with (
            tempfile.TemporaryDirectory(prefix="absence-") as data_dir,
            cluster_with_disks(Path(data_dir)) as (handle, cache),
        ):
            for kind in ROUNDS:
                report = absence(handle, cache, Path(data_dir), kind, options.seconds)
                print(json.dumps(report, indent=1), flush=True)
                failed += not expected(kind, report)
    finally:
        ray.shutdown()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
