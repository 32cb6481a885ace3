"""The command line as its users run it: real processes, a Ray of its own that `up` starts and `down` ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stratacache.client.ring import Ring
from stratacache.client.view import ShardInfo, View
from stratacache.cluster.cli import main
from tests.cluster.waiting import is_alive, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@dataclass
class Shell:
    """Runs `python -m stratacache.cluster` in an environment where no other Ray and no other state is seen."""

    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        hidden = ("RAY_ADDRESS", "RAY_AUTH_MODE", "STRATACACHE_TOKEN", "STRATACACHE_ADDRESS")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"RAY_TMPDIR": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        environment["HOME"] = str(self.home)
        return subprocess.run(
            [sys.executable, "-m", "stratacache.cluster", *arguments],
            env=environment | self.extra,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result.stdout

    def refused(self, *arguments: str) -> str:
        """The one line on stderr of a call that ends with status 2."""
        result = self.run(*arguments)
        assert result.returncode == 2, (arguments, result.returncode, result.stdout, result.stderr)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("stratacache: ")
        return lines[0]


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """A private home with a short path."""
    home = Path(tempfile.mkdtemp(prefix="scc-", dir="/tmp"))
    yield Shell(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def up(shell: Shell) -> Iterator[dict[str, Any]]:
    """What `up --json` printed; `down` ends it however the tests went."""
    printed = shell.ok("up", "--shards", "3", "--json", "--l1-bytes", "32MiB", "--l2-bytes", "0")
    yield json.loads(printed)
    shell.run("down")


# ---------------------------------------------------------------- without a cluster


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["get", "k", "--address", "strata://127.0.0.1:1"], "no shard answers at strata://127.0.0.1:1"),
        (["get", "k", "--address", "redis://x"], "address 'redis://x' is not understood; use strata://host:port"),
        (["get", ""], "the key is empty"),
        (["put", "k", "v", "--ttl", "-5"], "'-5' is not above 0"),
        (["put", "k", "v", "--ttl", "soon"], "'soon' is not a duration: write for example 90, 15m, 2h or 1d"),
        (["put", "k"], "Missing argument 'VALUE'"),
        (["invalidate"], "say what to invalidate: KEY..., --tag TAG, --namespace NAMESPACE or --all"),
        (["invalidate", "k", "--all"], "one of these only"),
        (["up", "--shards", "0"], "shards is 0; it must be from 1 to 1000"),
        (["up", "--replicas", "4"], "replicas is 4; it must be from 1 to 3"),
        (["up", "--shards", "1", "--replicas", "2"], "replicas is 2 and shards 1"),
        (["up", "--name", "No Such"], "use 1 to 47 lower-case letters, digits and inner dashes"),
        (["up", "--l1-bytes", "many"], "'many' is not a size"),
        (["up", "--policy", "best"], "policy 'best' is not known: use one of"),
        (["up", "--host", "0.0.0.0"], "set a token, or say --insecure"),
        (["up", "--port", "65535"], "port 65535 leaves no room for 3 shards"),
        (["node", "--bind", "0.0.0.0"], "without a token"),
        (["up", "--no-such-option"], "No such option"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_a_wrong_call_gets_one_line_and_status_2(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each names the way out, and is refused before Ray is looked for."""
    for name in ("RAY_ADDRESS", "STRATACACHE_TOKEN", "STRATACACHE_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("stratacache.cluster.local_ray.find_ray", _never)
    monkeypatch.setattr("stratacache.cluster.commands.up.find_ray", _never)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capfd.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith("stratacache: ")
    assert expected in printed.err


def _never() -> str:
    raise AssertionError("Ray was looked for")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("get k", "no cache was found: give --address strata://host:port, or start one with `stratacache up`"),
        ("status", "no Ray cluster is running here: start a cache with `stratacache up`, or set RAY_ADDRESS"),
        ("down", "no cache named 'default' was found: nothing was changed"),
    ],
)
def test_without_ray_or_cache_the_way_out_is_named(shell: Shell, command: str, expected: str) -> None:
    """Looking for a cache starts nothing."""
    assert expected in shell.refused(*command.split())
    assert not (shell.home / "ray").exists()


def test_ray_address_that_does_not_answer_is_named(shell: Shell) -> None:
    """The user asked for that Ray: no other is started in its place."""
    line = Shell(shell.home, {"RAY_ADDRESS": "127.0.0.1:1"}).refused("up")
    assert "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1" in line


def test_a_port_in_use_is_refused_by_node(shell: Shell) -> None:
    """`stratacache node` says which port it could not have."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in shell.refused("node", "--port", str(port))


def test_help_and_version(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is listed and explains itself."""
    listed = shell.ok("--help")
    assert shell.ok("--version").startswith("stratacache ")
    for name in ("up", "status", "down", "get", "put", "invalidate", "node", "demo"):
        assert f"  {name} " in listed
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"Usage: stratacache {name}" in capsys.readouterr().out


def test_the_command_line_loads_neither_ray_nor_numpy_until_it_has_to() -> None:
    """A node on a small machine starts fast and needs no Ray."""
    code = "import sys, stratacache.cluster.cli; print([name for name in ('ray', 'numpy') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# ---------------------------------------------------------------- with a cluster


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


def test_somebody_elses_ray_is_left_alone(shell: Shell, ray_session: str) -> None:
    """`up` joins the Ray at RAY_ADDRESS, and `down` ends only the cache in it."""
    import ray

    auth = Path("~/.ray/auth_token").expanduser()
    extra = {"RAY_ADDRESS": ray_session, "RAY_AUTH_TOKEN_PATH": str(auth)}
    if auth.exists():
        extra["RAY_AUTH_MODE"] = "token"
    joined = Shell(shell.home, extra)
    printed = json.loads(joined.ok("up", "--name", "guest", "--shards", "2", "--l1-bytes", "16MiB", "--json"))
    assert printed["ray_started"] is False
    assert joined.ok("down", "--name", "guest") == "cache guest: ended\n"
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 4
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    assert not [name for name in names if name.startswith("guest/")]


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
