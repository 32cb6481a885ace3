"""Fifty processes that want one value: `python -m tests.client.crowd ADDRESS DIRECTORY [kill]`.

Each child asks for the same key; whoever computes writes its pid into `computed` first and takes 2 seconds. With `kill`
the first one that computes takes a minute, and is killed with SIGKILL. Prints what each child got.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from stratacache.client import connect

CHILDREN = 50
COMPUTE_S = 2.0


def child(address: str, directory: Path, *, kill: bool) -> None:
    def compute() -> int:
        with (directory / "computed").open("a") as log:
            log.write(f"{os.getpid()}\n")
        first = (directory / "computed").read_text().startswith(f"{os.getpid()}\n")
        time.sleep(60 if first and kill else COMPUTE_S)
        return os.getpid()

    with connect(address, strict=True, deadline_s=20.0, connect_deadline_s=20.0, lease_hold_s=50.0) as cache:
        value = cache.get_or_compute("wanted", compute, wait_s=60)
    (directory / f"got-{os.getpid()}").write_text(str(value))


def main() -> None:
    address, directory = sys.argv[1], Path(sys.argv[2])
    kill = sys.argv[3:] == ["kill"]
    children = set()
    for _ in range(CHILDREN):
        pid = os.fork()
        if pid == 0:
            try:
                child(address, directory, kill=kill)
            finally:
                os._exit(0)
        children.add(pid)
    if kill:
        log = directory / "computed"
        while not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.01)
        os.kill(int(log.read_text().split()[0]), signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    computed = len((directory / "computed").read_text().split())
    sys.stdout.write(" ".join([str(computed), *[got.read_text() for got in directory.glob("got-*")]]) + "\n")


if __name__ == "__main__":
    main()
