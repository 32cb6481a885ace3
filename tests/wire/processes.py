"""Starts the servers under test, ours and the real redis-server, on free ports, and always ends them."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def running_node(*options: str, port: int | None = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Our node in a process of its own; gives the process and its port."""
    command = [sys.executable, "-m", "stratacache.node", "--port", str(-1 if port is None else port), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), f"the node did not start: {line!r}, exit code {process.poll()}"
        yield process, int(line.split("port=")[1].split()[0])
    finally:
        end(process)


@contextlib.contextmanager
def running_redis(directory: Path, *options: str) -> Iterator[int]:
    """A real redis-server; gives its port."""
    program = shutil.which("redis-server")
    assert program is not None
    port = free_port()
    command = [program, "--port", str(port), "--save", "", "--dir", str(directory), "--enable-debug-command", "no"]
    command += options
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_for_port(port)
        yield port
    finally:
        end(process)


def wait_for_port(port: int) -> None:
    until = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < until, f"nothing listens on port {port}"
