"""`python -m tests.simulation --seeds A:B`: status 0 when no seed lied, 1 with the seed and its replay command."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

if "--break" in sys.argv:
    import tests.plain  # noqa: F401 - what is compiled can't be patched

from tests.simulation import breaks_copies  # noqa: F401 - lists its breaks
from tests.simulation.breaks import BREAKS, broken
from tests.simulation.run import simulate


def main() -> int:
    """Run the seeds that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="A:B (B excluded), or one seed")
    parser.add_argument("--ops", type=int, default=160, help="operations for each seed")
    parser.add_argument("--shards", type=int, default=None, help="fix the number of shards")
    parser.add_argument("--replicas", type=int, default=None, help="fix the number of owners of each key")
    parser.add_argument("--disk", choices=("double", "real"), default="double", help="real: LMDB files, slower")
    parser.add_argument("--break", dest="breaks", default=None, help="plant this bug: a violation must be found")
    parser.add_argument("--list-breaks", action="store_true", help="name the bugs that can be planted")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    arguments = parser.parse_args()
    if arguments.list_breaks:
        for name, one in BREAKS.items():
            print(f"{name:36}{(one.__doc__ or '').strip()}")
        return 0
    first, _, last = arguments.seeds.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    counts: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    views, begun_s = 0, time.perf_counter()
    with broken(arguments.breaks):
        for done, seed in enumerate(seeds, 1):
            outcome = simulate(
                seed,
                ops=arguments.ops,
                shards=arguments.shards,
                replicas=arguments.replicas,
                real_disks=arguments.disk == "real",
                trace=print if arguments.trace else None,
            )
            counts += outcome.counts
            faults += outcome.faults
            views += outcome.view_changes
            if outcome.violation is not None:
                extra = f" --ops {arguments.ops}" if arguments.ops != 160 else ""
                extra += f" --shards {arguments.shards}" if arguments.shards else ""
                extra += f" --replicas {arguments.replicas}" if arguments.replicas else ""
                extra += " --disk real" if arguments.disk == "real" else ""
                extra += f" --break {arguments.breaks}" if arguments.breaks else ""
                print(f"seed {seed} (after {done} seeds): {outcome.violation}")
                print(f"replay: python -m tests.simulation --seeds {seed}{extra} --trace")
                return 1
    print(f"{len(seeds)} seeds in {time.perf_counter() - begun_s:.1f} s, {views} view changes, 0 violations")
    for title, table in (("operations", counts), ("faults", faults)):
        print(f"{title}: " + ", ".join(f"{name} {number}" for name, number in sorted(table.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
