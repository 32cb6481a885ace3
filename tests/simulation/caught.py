"""`python -m tests.simulation.caught`: plants one bug for each mechanism, at a seed that is known to show it.

In a process of its own, in which the node runs as plain Python: what is compiled can't be patched.
"""

from __future__ import annotations

import sys

import tests.plain  # noqa: F401 - before anything of the node
from tests.simulation import breaks_copies  # noqa: F401 - lists its breaks
from tests.simulation.breaks import broken
from tests.simulation.run import simulate

SEEDS = {
    "no-debt-for-a-down-shard": 38,
    "no-fencing": 80,
    "replica-applies-out-of-order": 3,
    "handoff-without-taking-the-key-away": 272,
    "lease-not-voided-by-tag": 96,
    "l3-served-before-draining": 38,
    "two-step-view-change-made-one-step": 108,
    "hints-dropped-silently": 262,
}
"""After a change of the workload others show it: `python -m tests.simulation --break NAME --seeds 0:300` names one."""
TRIES = 30


def main() -> int:
    """Say which seed shows each bug; status 1 when one is not found."""
    missed = 0
    for name, first in SEEDS.items():
        tries = range(first, first + 8 * TRIES, 8)  # seeds of the same kind, should the first not do any more
        with broken(name):
            found = next((seed for seed in tries if simulate(seed).violation), None)
        missed += found is None
        print(f"{name}: {'not found' if found is None else f'seed {found}'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
