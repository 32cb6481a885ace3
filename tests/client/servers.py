"""Real nodes for the client's tests: processes of `python -m stratacache.node` on free ports, always ended."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.stopping import stop

START_DEADLINE_S = 30.0


@dataclass
class Node:
    """A running node process."""

    process: subprocess.Popen[str]
    port: int
    unix: str
    arguments: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def pause(self) -> None:
        """SIGSTOP: it answers nothing from now on."""
        stop(self.process.pid)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> Node:
        """A new process on the same port."""
        return start_node(*self.arguments, port=self.port)


def start_node(*arguments: str, port: int = 0) -> Node:
    command = [sys.executable, "-m", "stratacache.node", "--port", str(port), "--l1-mib", "64", *arguments]
    environment = {**os.environ, "STRATACACHE_LOG": "WARNING"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    end = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < end:
        ready, _, _ = select.select([process.stdout], [], [], end - time.monotonic())
        line = process.stdout.readline() if ready else ""
        match = re.match(r"ready host=\S+ port=(\S+) unix=(\S*)", line)
        if match:
            return Node(process, int(match[1]) if match[1].isdecimal() else 0, match[2], arguments)
        if process.poll() is not None:
            break
    Node(process, 0, "", arguments).kill()
    raise AssertionError(f"the node did not start: {command}")


@contextlib.contextmanager
def running(count: int = 1, *arguments: str, unix_dir: Path | None = None) -> Iterator[list[Node]]:
    """Some nodes, killed at the end whatever happens."""
    nodes: list[Node] = []
    try:
        for number in range(count):
            unix = () if unix_dir is None else ("--unix", str(unix_dir / f"{number}.sock"))
            nodes.append(start_node(*arguments, *unix))
        yield nodes
    finally:
        for node in nodes:
            node.resume()
            node.kill()


def address(nodes: list[Node], scheme: str = "strata") -> str:
    return f"{scheme}://" + ",".join(node.place for node in nodes)


def wait_until(condition: object, deadline_s: float = 10.0, what: str = "the condition") -> None:
    """Wait for a callable to become true; fail with `what` when the time is over."""
    assert callable(condition)
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true in {deadline_s} s"
        time.sleep(0.005)
