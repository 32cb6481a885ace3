"""The command line of the chaos run; see the package."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chaos.faults import Tormentor
from tests.chaos.load import NAMESPACE_OF, NAMESPACES, NEVER, Found, run
from tests.chaos.oracle import Slots

KEYS = 240
QUIET_S = 1.0
ALL_FAULTS = ("kill_shard", "kill_shard", "kill_coordinator", "stop_shard", "kill_raylet")


def chaos(options: argparse.Namespace) -> dict[str, Any]:
    """Run load and faults for as long as the options say; gives what was done and seen."""
    import ray
    from ray.cluster_utils import Cluster

    from stratacache.cluster import start

    head = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(options.raylets - 1):
        cluster.add_node(num_cpus=2, object_store_memory=80_000_000)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="chaos-") as data_dir,
            start(
                shards=options.shards,
                replicas=options.replicas,
                data_dir=str(Path(data_dir)),
                lease_ms=round(options.lease * 1000),
            ) as handle,
        ):
            return _under_load(Tormentor(handle, cluster, options.lease, options.seed), options)
    finally:
        ray.shutdown()
        cluster.shutdown()


def _under_load(tormentor: Tormentor, options: argparse.Namespace) -> dict[str, Any]:
    processes, faults = options.processes, tuple(options.faults.split(","))
    context = multiprocessing.get_context("spawn")
    slots = {kind: Slots(*(context.Array("q", KEYS, lock=False) for _ in range(3))) for kind in NAMESPACES}
    stop, out = context.Event(), context.Queue()
    handle = tormentor.handle
    view = handle.view.to_bytes()
    workers = [
        context.Process(
            target=run, args=(handle.address, handle.token, view, number, processes, slots, options.seed, stop, out)
        )
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    started = time.monotonic()
    try:
        for kind in chosen(tormentor, faults, None if options.once else started + options.seconds):
            time.sleep(QUIET_S)  # load on a whole cluster, before the next fault
            tormentor.strike(kind)
            print(f"{time.monotonic() - started:6.1f} s  {kind}", file=sys.stderr, flush=True)
        time.sleep(QUIET_S)
    finally:
        stop.set()
        seen: list[Found] = [out.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join(30)
    return {"replicas": options.replicas, **_report(seen, tormentor, started)}


def chosen(tormentor: Tormentor, faults: tuple[str, ...], until: float | None) -> Iterator[str]:
    """The faults in the order in which they are carried out: any of them until that moment, or each once."""
    if until is None:
        yield from faults
        return
    while time.monotonic() < until:
        yield tormentor.chooser.choice(faults)


def _report(seen: list[Found], tormentor: Tormentor, started: float) -> dict[str, Any]:
    counts: Counter[str] = sum((found.counts for found in seen), Counter())
    operations = sum(counts[name] for name in ("get", "fill", "put")) + sum(
        count for name, count in counts.items() if name.startswith("invalidations by")
    )
    return {
        "seconds": round(time.monotonic() - started, 1),
        "violations": sum(len(found.faults) for found in seen),
        "first_violations": [fault for found in seen for fault in found.faults][:10],
        "kills": tormentor.kills,
        "faults": dict(tormentor.done),
        "operations": operations,
        "hits": counts["hits"],
        "longest_unavailability_of_a_range": {
            what: _told(max(found.away.get(what, NEVER) for found in seen), started) for what in NAMESPACE_OF
        },
        "slowest_call_s": round(max(found.slowest_s for found in seen), 2),
        "counts": dict(sorted(counts.items())),
        "coordinator_on_head": tormentor.coordinator_is_on_head(),
        "epoch": tormentor.handle.view.epoch,
    }


def _told(away: tuple[float, float, str, str], started: float) -> str:
    seconds, since, shard, told = away
    return f"{seconds:.1f} s" + (f" from {since - started:.1f} s, {shard}: {told}" if shard else "")


def main() -> int:
    """Parse the arguments, run, print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--raylets", type=int, default=4)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=1, help="owners of each key")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--faults", default=",".join(ALL_FAULTS), help="which faults, repeated ones more often")
    parser.add_argument("--once", action="store_true", help="each of the faults once, whatever --seconds says")
    parser.add_argument("--lease", type=float, default=3.0, help="the shards' serving lease in seconds")
    parser.add_argument("--json", type=Path, help="write the report to this file too")
    options = parser.parse_args()
    report = chaos(options)
    text = json.dumps(report, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
