"""The command line as its users run it: real processes, a Ray of its own that `up` starts and `down` ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stratacache.client.ring import Ring
from stratacache.client.view import ShardInfo, View
from tests.cluster.shell import Shell, private_shell
from tests.cluster.waiting import is_alive, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("own-ray")]


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with private_shell() as made:
        yield made


@pytest.fixture(scope="module")
def up(shell: Shell) -> Iterator[dict[str, Any]]:
    """What `up --json` printed; `down` ends it however the tests went."""
    printed = shell.ok("up", "--shards", "3", "--json", "--l1-bytes", "32MiB", "--l2-bytes", "0")
    yield json.loads(printed)
    shell.run("down")


def test_up_prints_where_the_shards_are(up: dict[str, Any]) -> None:
    """Endpoints of all shards, on loopback, with private Unix sockets."""
    assert [shard["id"] for shard in up["shards"]] == ["shard-0", "shard-1", "shard-2"]
    assert up["ray_started"] is True
    for shard in up["shards"]:
        assert shard["host"] == "127.0.0.1"
        assert len(shard["unix"]) <= 107
        assert Path(shard["unix"]).stat().st_mode & 0o777 == 0o600
        assert Path(shard["unix"]).parent.stat().st_mode & 0o777 == 0o700


def test_put_get_invalidate_status(shell: Shell, up: dict[str, Any]) -> None:
    """The commands find the cache by themselves, or by the address of one shard."""
    assert shell.ok("put", "greeting", "hello", "--ttl", "1h", "--tag", "t:1") == "stored\n"
    assert shell.ok("get", "greeting") == "hello\n"
    address = f"strata://127.0.0.1:{up['shards'][1]['port']}"
    assert json.loads(shell.ok("get", "greeting", "--address", address, "--json")) == {
        "key": "greeting",
        "namespace": "default",
        "found": True,
        "value": "hello",
    }
    assert "the limit is" in shell.refused("get", "k" * 70_000, "--address", address)
    assert shell.ok("invalidate", "--tag", "t:1") == "removed 1\n"
    missed = shell.run("get", "greeting")
    assert (missed.returncode, missed.stdout) == (1, "")
    assert "miss" in missed.stderr
    assert shell.ok("put", "a", "1", "--namespace", "docs") == "stored\n"
    assert shell.ok("invalidate", "--namespace", "docs") == "removed 1\n"
    report = json.loads(shell.ok("status", "--json"))
    assert report["ready"] is True
    assert sum(shard["hits"] for shard in report["shards"]) == report["total"]["hits"] >= 2
    table = shell.ok("status")
    assert "shard-2" in table
    assert f"127.0.0.1:{up['shards'][2]['port']}" in table


def test_a_second_up_is_refused_and_the_first_goes_on(shell: Shell, up: dict[str, Any]) -> None:
    """Nothing of the running cluster is touched by the failed start."""
    assert "a cache named 'default' already runs" in shell.refused("up")
    report = json.loads(shell.ok("status", "--json"))
    assert report["ready"] is True
    assert [shard["port"] for shard in report["shards"]] == [shard["port"] for shard in up["shards"]]


def test_redis_cli_works_on_each_port(up: dict[str, Any]) -> None:
    """The commands that everybody tries first answer as Redis answers them."""
    cli = shutil.which("redis-cli")
    if cli is None:
        pytest.skip("redis-cli is not installed")

    def ask(port: int, *words: str) -> str:
        command = [cli, "-p", str(port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout

    for shard in up["shards"]:
        port = shard["port"]
        assert ask(port, "SET", "a", "b", "EX", "60") == "OK\n"
        assert ask(port, "GET", "a") == "b\n"
        assert 0 < int(ask(port, "TTL", "a")) <= 60
        assert ask(port, "MGET", "a", "nope") == "b\n\n"
        assert ask(port, "DEL", "a") == "1\n"
        assert ask(port, "GET", "a") == "\n"
        assert "redis_version:" in ask(port, "INFO")


def test_redis_benchmark_runs_through(up: dict[str, Any]) -> None:
    """At the owner of its key with 100,000 requests, through the other shards with fewer."""
    benchmark = shutil.which("redis-benchmark")
    if benchmark is None:
        pytest.skip("redis-benchmark is not installed")
    view = View(epoch=1, shards=tuple(ShardInfo.from_map(shard) for shard in up["shards"]))
    owner = Ring(view).primary(b"key:__rand_int__").id
    for shard in up["shards"]:
        count = "100000" if shard["id"] == owner else "2000"
        command = [benchmark, "-p", str(shard["port"]), "-t", "get,set", "-n", count, "-q"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert result.stdout.count("requests per second") == 2, result.stdout[-500:]
        assert "error" not in (result.stdout + result.stderr).lower()


def test_a_killed_shard_comes_back_where_clients_look_for_it(shell: Shell, up: dict[str, Any]) -> None:
    """SIGKILL: the replacement listens on the same port, and `status` is ready again."""
    report = json.loads(shell.ok("status", "--json"))
    os.kill(report["shards"][0]["pid"], signal.SIGKILL)

    port = up["shards"][0]["port"]

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"GET k\r\n")  # refused until the shard may serve
                return connection.recv(100).startswith(b"$")
        except OSError:
            return False

    wait_until(answers, 30, "an answer of the replacement of shard-0")
    after = json.loads(shell.ok("status", "--json"))
    assert after["shards"][0]["incarnation"] > report["shards"][0]["incarnation"]
    assert after["shards"][0]["port"] == port
    wait_until(lambda: json.loads(shell.ok("status", "--json"))["ready"], 30, "a cluster that is ready again")


def test_down_leaves_nothing(shell: Shell, up: dict[str, Any]) -> None:
    """No process of ours, no socket, no state. The Ray ends with the last cache of ours in it."""
    pids = [shard["pid"] for shard in json.loads(shell.ok("status", "--json"))["shards"]]
    state = json.loads((shell.home / "state" / "stratacache" / "default.json").read_text())
    session = state["head"]["pid"]
    assert len(_session(session)) > 3, "the local Ray runs in a session of its own"
    shell.ok("up", "--name", "second", "--shards", "1", "--l1-bytes", "16MiB")
    assert shell.ok("down") == "cache default: ended\n", "the Ray is still needed by the second cache"
    assert shell.ok("put", "k", "v") == "stored\n"
    assert shell.ok("down", "--name", "second") == "cache second: ended, local Ray ended\n"
    assert _session(session) == []
    assert not any(is_alive(pid) for pid in pids)
    assert not Path(up["shards"][0]["unix"]).parent.exists()
    assert not (shell.home / "ray" / "ray_current_cluster").exists()
    assert "nothing was changed" in shell.refused("down")


def test_up_that_fails_leaves_no_ray_behind(shell: Shell) -> None:
    """The shard's port is taken: one line, status 2, and the Ray that was started for it has ended."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = shell.refused("up", "--shards", "1", "--port", str(port), "--l1-bytes", "16MiB")
    assert "on 127.0.0.1 is in use: choose another --port" in line
    assert not (shell.home / "state" / "stratacache" / "default.json").exists()
    assert not (shell.home / "ray" / "ray_current_cluster").exists()


def _session(leader: int) -> list[int]:
    """The live processes of a session."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and is_alive(int(path.name)):
            try:
                if os.getsid(int(path.name)) == leader:
                    found.append(int(path.name))
            except ProcessLookupError:
                continue
    return found
