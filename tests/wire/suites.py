"""Runs the test suites of Redis or Valkey against a node: `python -m tests.wire.suites CHECKOUT`.

Their tests are written in Tcl (tclsh); they are pointed at a server that runs already, or start one by its name. What
a test needs that a cache of strings does not have is left out by name, here; everything else in these units must pass.
Redis's own names for what it can't do on a foreign server (DEBUG, replication) are left out by their tags.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.wire.processes import running_node

UNITS = {
    "unit/type/string": "non-string key|wrong (key )?type|incorrect type|BIT|LCS",  # other types; bits; LCS
    "unit/type/incr": "list",
    "unit/expire": "write on expire",  # lists
    "unit/scan": "SSCAN|HSCAN|ZSCAN|SCAN TYPE|regression test for issue",  # sets, hashes, sorted sets
    "unit/auth": "-",
    "unit/quit": "-",
    "unit/limits": "-",
    "unit/protocol": "raw protocol response|blocking ops",  # sets, lists
    "unit/keyspace": "RENAME|COPY|MOVE|RANDOMKEY|different DBs|DB 1",  # commands that are not there, one database
    "unit/multi": "(?i)watch|basics|DISCARD|alter|propagat|script|blocking|FLUSH|SWAPDB|nested|XREAD|AOF|SAVE|SHUTDOWN",
    "unit/introspection": "MONITOR|CONFIG|config|statistics|illegal|unhappy|CLIENT LIST$|CLIENT INFO$",  # settings,
    "unit/other": "HELP|SELECT|Coverage",  # and what Valkey 8 has that Redis 7.0 has not
    "unit/tracking": "|".join(
        (
            "script",
            "hdel|BLMOVE",  # hashes, lists
            "eviction keys should be before|table key eviction|evacuate",  # set limits by CONFIG SET
        )
    ),
}
OWN_SERVERS = frozenset({"unit/auth", "unit/limits"})
"""Units that start servers with settings of their own: there the node is started in the place of redis-server."""

NOT_OF_VALKEY = frozenset({"unit/keyspace"})
"""Units that set limits of lists between their tests there."""

TAGS = "-needs:repl -needs:debug -needs:reset -needs:save -needs:config-maxmemory -cluster -auth_binary_password"
"""Not run: replication, DEBUG, CONFIG SET of what belongs to the start (the password among it), cluster mode."""

PROGRAMS = ("server", "cli", "benchmark")
TIMEOUT_S = 300


def run_unit(directory: Path, port: int, unit: str, left_out: str) -> bool:
    """Run one unit; prints its verdict and what failed."""
    command = ["tclsh", "tests/test_helper.tcl", "--single", unit]
    command += [] if unit in OWN_SERVERS else ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--ignore-encoding", "--ignore-digest", "--singledb", "--tags", TAGS, "--skiptest", f"/{left_out}"]
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
    )
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
    passed = sum(line.startswith("[ok]") for line in lines)
    skipped = sum(line.startswith(("[skip]", "[ignore]")) for line in lines)
    good = "All tests passed without errors" in done.stdout
    print(f"{unit:20} {'passed' if good else 'FAILED'}: {passed} ok, {skipped} left out")
    for index, line in enumerate(lines):
        if line.startswith(("[err]", "[exception]")):
            print("   ", *lines[index : index + 2])
    return good


def main() -> None:
    """Run the units one by one against one node."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="checkout of redis/redis or valkey-io/valkey (its tests/ is used)")
    directory = parser.parse_args().directory
    if shutil.which("tclsh") is None:
        sys.exit("tclsh is not installed (Debian: apt-get install tcl)")
    for name in PROGRAMS:  # the suites look for their programs in src/, but need only the tools
        program = shutil.which(f"redis-{name}")
        for place in (directory / "src" / f"redis-{name}", directory / "src" / f"valkey-{name}"):
            place.parent.mkdir(exist_ok=True)
            place.unlink(missing_ok=True)
            if name == "server":
                place.write_text(
                    f'#!/bin/sh\nPYTHONPATH={Path.cwd()} exec {sys.executable} -m tests.wire.as_redis "$1"\n'
                )
                place.chmod(0o755)
            elif program is not None:
                place.symlink_to(program)
    units = UNITS
    if (directory / "tests" / "support" / "valkey.tcl").exists():
        units = {unit: left_out for unit, left_out in UNITS.items() if unit not in NOT_OF_VALKEY}
    with running_node() as (_, port):
        good = [run_unit(directory, port, unit, left_out) for unit, left_out in units.items()]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
