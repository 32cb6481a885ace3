"""Our client beside others, one caller: `python -m benchmarks.client --json F`.

Peers as their users run them: redis-py (with hiredis) and pymemcache over loopback TCP, diskcache in a directory, a
plain Ray actor that holds a dict. Ours talks to one node without a disk level, by the Unix socket that it finds itself;
beside diskcache it is `local:DIR`, with all three levels, in the same process.
`same_core`: client and servers pinned to one core, which measures CPU cost. `two_cores`: the client on one, servers on
the other. `--mode cpu`: pinned as `same_core`, but what is taken is the processor time of client and server, which
suffers less from whatever else the machine does. Rounds alternate between ours and the peer; medians of the rounds.
Values are 6 KB of random bytes, or a float32 vector of 1536 numbers (redis-py: pickled).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from stratacache.client import CacheClient, connect

ROUNDS = 5
MODES = ("same_core", "two_cores")
CPU = "cpu"
Clock = Callable[[], float]
VALUE = os.urandom(6144)
MANY = {f"many:{i}": os.urandom(6144) for i in range(100)}
VECTOR = np.random.default_rng(0).random(1536, dtype=np.float32)
# Loops a round: (fast peers, slow peers)
LOOPS = {"get_6k": 2000, "get_many_100x6k": 200, "hot_key": 2000, "embedding_1536": 2000, "put_6k": 1000}
LOOPS["put_many_100x6k"] = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(command: list[str], port: int, core: int) -> Iterator[psutil.Process]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        psutil.Process(process.pid).cpu_affinity([core])
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def cpu_clock(server_pid: int | None) -> Clock:
    """Seconds of processor time that this process and a server have used."""

    def used() -> float:
        tasks = Path(f"/proc/{server_pid}/task").glob("*/schedstat") if server_pid is not None else ()
        return time.process_time() + sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    return used


def round_us(call: Callable[[], Any], loops: int, clock: Clock = time.perf_counter) -> float:
    begun = clock()
    for _ in range(loops):
        call()
    return (clock() - begun) / loops * 1e6


def compare(
    name: str,
    mode: str,
    ours: Callable[[], Any],
    peer: str,
    theirs: Callable[[], Any],
    clocks: tuple[Clock, Clock] = (time.perf_counter, time.perf_counter),
) -> dict[str, Any]:
    slow = peer == "ray-actor-dict"
    loops = LOOPS[name]
    round_us(ours, loops // 4)
    round_us(theirs, max(5, loops // (40 if slow else 4)))
    mine, other = [], []
    for _ in range(ROUNDS):
        mine.append(round_us(ours, loops, clocks[0]))
        other.append(round_us(theirs, max(10, loops // 10) if slow else loops, clocks[1]))
    ours_us, peer_us = statistics.median(mine), statistics.median(other)
    row = {"name": name, "mode": mode, "ours_us": round(ours_us, 2), "peer": peer, "peer_us": round(peer_us, 2)}
    row["ratio"] = round(peer_us / ours_us, 2)
    print(row, flush=True)
    return row


@contextmanager
def near_client(place: str) -> Iterator[CacheClient]:
    """A client with the key in its near cache, open for one row only: the puts of the others would be pushed to it."""
    with connect(place, shared=False, strict=True, near_bytes_max=32 << 20) as near:
        end = time.monotonic() + 5
        while near.stats()["client"]["near"]["live_parts"] == 0 and time.monotonic() < end:
            near.get("k")
            time.sleep(0.05)
        near.get("k")
        yield near


def our_calls(cache: CacheClient) -> dict[str, Callable[[], Any]]:
    cache.put("k", VALUE)
    cache.put("vector", VECTOR)
    cache.put_many(MANY)
    keys = list(MANY)
    return {
        "get_6k": lambda: cache.get("k"),
        "get_many_100x6k": lambda: cache.get_many(keys),
        "embedding_1536": lambda: cache.get("vector"),
        "put_6k": lambda: cache.put("put", VALUE),
        "put_many_100x6k": lambda: cache.put_many(MANY),
    }


def redis_calls(port: int) -> dict[str, Callable[[], Any]]:
    import redis

    client = redis.Redis(port=port)
    client.set("k", VALUE)
    client.set("vector", pickle.dumps(VECTOR, protocol=5))
    client.mset(MANY)
    keys = list(MANY)
    return {
        "get_6k": lambda: client.get("k"),
        "get_many_100x6k": lambda: client.mget(keys),
        "hot_key": lambda: client.get("k"),
        "embedding_1536": lambda: pickle.loads(client.get("vector")),
        "put_6k": lambda: client.set("put", VALUE),
        "put_many_100x6k": lambda: client.mset(MANY),
    }


def memcached_calls(port: int) -> dict[str, Callable[[], Any]]:
    from pymemcache.client.base import Client

    client = Client(("127.0.0.1", port), no_delay=True, default_noreply=False)
    client.set("k", VALUE)
    client.set_many(MANY)
    keys = list(MANY)
    return {
        "get_6k": lambda: client.get("k"),
        "get_many_100x6k": lambda: client.get_many(keys),
        "put_6k": lambda: client.set("put", VALUE),
        "put_many_100x6k": lambda: client.set_many(MANY),
    }


def disk_calls(directory: str) -> dict[str, Callable[[], Any]]:
    import diskcache

    client = diskcache.Cache(directory)
    client.set("k", VALUE)
    client.set("vector", VECTOR)
    for key, value in MANY.items():
        client.set(key, value)
    return {
        "get_6k": lambda: client.get("k"),
        "get_many_100x6k": lambda: [client.get(key) for key in MANY],
        "embedding_1536": lambda: client.get("vector"),
        "put_6k": lambda: client.set("put", VALUE),
    }


@contextmanager
def ray_calls(client_core: int, server_core: int) -> Iterator[dict[str, Callable[[], Any]]]:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:

        @ray.remote
        class Holder:
            def __init__(self, core: int) -> None:
                os.sched_setaffinity(0, {core})
                self.values: dict[str, Any] = {}

            def put(self, items: dict[str, Any]) -> None:
                self.values.update(items)

            def get(self, key: str) -> Any:
                return self.values.get(key)

            def get_many(self, keys: list[str]) -> list[Any]:
                return [self.values.get(key) for key in keys]

        holder = Holder.remote(server_core)
        ray.get(holder.put.remote({"k": VALUE, **MANY}))
        os.sched_setaffinity(0, {client_core})
        keys = list(MANY)
        yield {
            "get_6k": lambda: ray.get(holder.get.remote("k")),
            "get_many_100x6k": lambda: ray.get(holder.get_many.remote(keys)),
        }
    finally:
        ray.shutdown()


def open_peer(
    stack: ExitStack, peer: str, directory: str, client_core: int, server_core: int
) -> tuple[dict[str, Callable[[], Any]], int | None]:
    """The calls of a peer, and the process of its server if it has one."""
    if peer == "diskcache":
        return disk_calls(f"{directory}/diskcache"), None
    if peer == "ray-actor-dict":
        return stack.enter_context(ray_calls(client_core, server_core)), None
    port = free_port()
    if peer == "redis-py":
        command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    else:
        command = ["memcached", "-p", str(port), "-l", "127.0.0.1", "-U", "0", "-u", "root", "-m", "256"]
    process = stack.enter_context(server(command, port, server_core))
    return (redis_calls if peer == "redis-py" else memcached_calls)(port), process.pid


def run(mode: str, peers: list[str]) -> list[dict[str, Any]]:
    client_core, server_core = 0, 0 if mode != "two_cores" or (os.cpu_count() or 1) < 2 else 1
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        node_port = free_port()
        command = [sys.executable, "-m", "stratacache.node", "--port", str(node_port)]
        node = stack.enter_context(server([*command, "--unix", f"{directory}/node.sock"], node_port, server_core))
        os.sched_setaffinity(0, {client_core})
        place = f"strata://127.0.0.1:{node_port}"
        cache = stack.enter_context(connect(place, shared=False, strict=True))
        ours = our_calls(cache)
        local = stack.enter_context(connect(f"local:{directory}/local", shared=False, strict=True))
        ours_local = our_calls(local)
        for peer in peers:
            with ExitStack() as peer_stack:
                try:
                    theirs, pid = open_peer(peer_stack, peer, directory, client_core, server_core)
                except Exception as error:  # noqa: BLE001 - the others are worth their rows
                    print(f"{peer}: left out, it does not start: {error}")
                    continue
                mine = ours_local if peer == "diskcache" else ours
                wall = (time.perf_counter, time.perf_counter)
                clocks = (cpu_clock(None if mine is ours_local else node.pid), cpu_clock(pid)) if mode == CPU else wall
                for name, call in theirs.items():
                    if name == "hot_key":
                        with near_client(place) as near:
                            rows.append(compare(name, mode, partial(near.get, "k"), peer, call, clocks))
                    else:
                        rows.append(compare(name, mode, mine[name], peer, call, clocks))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--mode", choices=(*MODES, CPU), action="append")
    parser.add_argument("--peer", action="append")
    options = parser.parse_args()
    wanted = options.peer or ["redis-py", "pymemcache", "diskcache", "ray-actor-dict"]
    programs = {"redis-py": "redis-server", "pymemcache": "memcached"}
    if options.mode == [CPU] and not options.peer:
        wanted.remove("ray-actor-dict")  # its processes are many
    peers = [peer for peer in wanted if shutil.which(programs.get(peer, sys.executable))]
    for peer in set(wanted) - set(peers):
        print(f"{peer}: left out, {programs[peer]} is not installed")
    rows = [row for mode in options.mode or MODES for row in run(mode, peers)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
