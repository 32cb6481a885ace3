"""Our node beside redis-server under redis-benchmark: `python -m benchmarks.server --json F`.

Both servers run at the same time, each pinned to the first core and redis-benchmark to the second, so that only one
works at a time; each round is made of short runs of one and the other in turn, and the medians of the rounds count.
1 KB values, 20 connections, 10,000 keys. Our node has all three levels on (write-behind to disk), counts statistics,
and the keys that are read carry a TTL and two tags.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

KEYS = 10_000
VALUE_BYTES = 1024
CONNECTIONS = 20
TESTS = {
    "get": ("GET", 1, 400_000),
    "set": ("SET", 1, 400_000),
    "set_ex": ("SET_EX", 1, 200_000),
    "get_p32": ("GET", 32, 1_500_000),
    "set_p32": ("SET", 32, 600_000),
}
TURNS = 8
"""Runs of each side within a round: what else the machine does meanwhile then strikes both."""
GOALS = {"get": 1.0, "set": 0.9, "get_p32": 0.65, "set_p32": 0.45}


def pinned(core: int, command: list[str]) -> list[str]:
    if shutil.which("taskset") is None or (os.cpu_count() or 1) < 2:
        return command
    return ["taskset", "-c", str(core), *command]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], port: int) -> Iterator[psutil.Process]:
    process = subprocess.Popen(pinned(0, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > until:
                    raise
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def cpu_s(process: psutil.Process) -> float:
    """CPU time of a server: unlike the rate, it does not suffer from what else runs on the machine."""
    times = process.cpu_times()
    return times.user + times.system


def fill(port: int, *, native: bool) -> None:
    """Put every key that GET asks for, with a TTL; on our node with tags, too."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        file = sock.makefile("rb")
        for number in range(KEYS):
            key, value = b"key:%012d" % number, b"x" * VALUE_BYTES
            words = [b"SET", key, value, b"PX", b"36000000"]
            if native:
                words = [b"SC.PUT", key, value, b"PX", b"36000000", b"TAGS", b"2", b"model:m", b"op:%d" % (number % 8)]
            parts = b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
            sock.sendall(b"*%d\r\n" % len(words) + parts)
            assert file.readline() == b"+OK\r\n"


def measure(port: int, test: str, pipeline: int, requests: int) -> float:
    """Requests per second that redis-benchmark sees."""
    command = ["redis-benchmark", "-p", str(port), "-c", str(CONNECTIONS), "-n", str(requests), "--csv"]
    command += ["-d", str(VALUE_BYTES), "-r", str(KEYS), "-P", str(pipeline)]
    if test == "SET_EX":
        command += ["SET", "key:__rand_int__", "x" * VALUE_BYTES, "EX", "36000"]
    else:
        command += ["-t", test.lower()]
    text = subprocess.run(pinned(1, command), capture_output=True, text=True, check=True, timeout=120).stdout
    rows = list(csv.DictReader(text[text.index('"test"') :].splitlines()))
    return float(rows[0]["rps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the requests (for a quick look)")
    parser.add_argument("--only", default="", help="tests, with commas between")
    arguments = parser.parse_args()
    chosen = [name for name in TESTS if not arguments.only or name in arguments.only.split(",")]
    ours_port, redis_port = free_port(), free_port()
    rates: dict[str, dict[str, list[float]]] = {name: {"ours": [], "redis": []} for name in chosen}
    busy: dict[str, dict[str, list[float]]] = {name: {"ours": [], "redis": []} for name in chosen}
    with tempfile.TemporaryDirectory() as directory:
        node = [sys.executable, "-m", "stratacache.node", "--port", str(ours_port), "--data-dir", f"{directory}/node"]
        redis = ["redis-server", "--port", str(redis_port), "--save", "", "--dir", directory]
        with running(node, ours_port) as ours_process, running(redis, redis_port) as redis_process:
            fill(ours_port, native=True)
            fill(redis_port, native=False)
            for number in range(arguments.rounds):
                for name in chosen:
                    test, pipeline, requests = TESTS[name]
                    count = int(requests * arguments.scale / TURNS)
                    sides = [("ours", ours_port, ours_process), ("redis", redis_port, redis_process)]
                    before = {side: cpu_s(process) for side, _, process in sides}
                    turns: dict[str, list[float]] = {"ours": [], "redis": []}
                    for turn in range(TURNS):
                        for side, port, _ in sides if (number + turn) % 2 else sides[::-1]:
                            turns[side].append(measure(port, test, pipeline, count))
                    for side, _, process in sides:
                        rates[name][side].append(statistics.harmonic_mean(turns[side]))
                        busy[name][side].append((cpu_s(process) - before[side]) / (count * TURNS) * 1e6)
    result: dict[str, Any] = {}
    for name, sides in rates.items():
        ours, theirs = statistics.median(sides["ours"]), statistics.median(sides["redis"])
        cpu = {side: round(statistics.median(values), 2) for side, values in busy[name].items()}
        result[name] = {"ours": ours, "redis": theirs, "ratio": round(ours / theirs, 3), "goal": GOALS.get(name)}
        result[name]["server_cpu_us_per_request"] = cpu
        print(
            f"{name:8} ours {ours:10.0f}/s  redis {theirs:10.0f}/s  ratio {ours / theirs:.2f}  goal {GOALS.get(name)}"
            f"  server CPU per request: {cpu['ours']:.2f} us, {cpu['redis']:.2f} us"
        )
    result["rounds"] = rates
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
