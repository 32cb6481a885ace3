"""Run what prefetching has to show: `python -m benchmarks.prefetch --json F`.

Workloads under simulated time (regular, daily, bursts, random, mix), wake on a trace (`--trace`), the memory of
patterns with ten million keys, and the time of merging a hundred shards. `--only` runs some of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.prefetch.costs import memory, merging
from benchmarks.prefetch.wake import wake_report
from benchmarks.prefetch.workloads import KINDS, workload
from benchmarks.prefetch.world import compare

TRACE = Path("../shared/traces/mooncake-conversation.oracleGeneral.bin.xz")
PARTS = (*KINDS, "mix", "wake", "memory", "merging")


def main() -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="shorten the workloads")
    parser.add_argument("--keys", type=int, default=10_000_000, help="distinct keys of `memory`")
    parser.add_argument(
        "--trace", type=Path, default=TRACE, help="an oracleGeneral.bin.xz whose times are milliseconds, for `wake`"
    )
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for part in options.only:
        if part == "wake":
            if not options.trace.is_file():
                print(f"wake: left out, there is no {options.trace}")
                continue
            results[part] = wake_report(options.trace)
        elif part == "memory":
            results[part] = memory(options.keys)
        elif part == "merging":
            results[part] = merging()
        else:
            results[part] = compare(workload(part, options.seed, options.scale), options.seed)
        print(part, json.dumps(results[part], indent=2), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
