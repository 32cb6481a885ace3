"""Starts a node as the Tcl suites start a redis-server: `python -m tests.wire.as_redis redis.conf`.

Of the configuration only port, password and the most clients are taken; the lines that the suites wait for are printed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Become a node."""
    lines = [line.split(maxsplit=1) for line in Path(sys.argv[1]).read_text().splitlines() if line.strip()]
    settings = {name: value.strip('"') for name, value in (line for line in lines if len(line) == 2)}
    command = [sys.executable, "-m", "stratacache.node", "--port", settings["port"]]
    if settings.get("requirepass"):
        command += ["--token", settings["requirepass"]]
    if settings.get("maxclients"):
        command += ["--connections", settings["maxclients"]]
    print(f"# PID: {os.getpid()}\n* Server initialized\n* Ready to accept connections", flush=True)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
