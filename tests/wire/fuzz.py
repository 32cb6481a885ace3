"""`make fuzz`: the parser and the command table under random input for as long as is asked.

The same properties as tests/wire/test_parser.py, with other examples each time. A failure prints its input.
"""

from __future__ import annotations

import sys
import time
from types import FunctionType

from hypothesis import HealthCheck, given, settings

from tests.wire.parsing import PROPERTIES

ROUND = settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def fresh(check: FunctionType) -> FunctionType:
    """A copy of a function: hypothesis decorates one only once."""
    return FunctionType(check.__code__, check.__globals__, check.__name__)


def main() -> None:
    """Run rounds until the seconds are over."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    until = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < until:
        for check, inputs in PROPERTIES:
            ROUND(given(**inputs)(fresh(check)))()
        rounds += 1
    sys.stdout.write(f"{rounds} rounds of {ROUND.max_examples} examples for each property, no failure\n")


if __name__ == "__main__":
    main()
