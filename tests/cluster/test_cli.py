"""The command line where no Ray runs: wrong calls, and the way out that each is told."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratacache.cluster.cli import main
from stratacache.cluster.commands.controller import read_config
from stratacache.node.errors import UsageError
from tests.cluster.shell import Shell, private_shell


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with private_shell() as made:
        yield made


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
        (["up", "--start-timeout", "nan"], "'nan' is no number of seconds: write for example 60"),
        (["up", "--start-timeout", "0"], "0.0 is not in the range x>=1"),
        (["up", "--cpus-per-shard", "nan"], "cpus_per_shard is nan; it must be a finite number"),
        (["up", "--l1-bytes", "9" * 400], "is more than any machine has"),
        (["put", "k", "v", "--ttl", "9" * 400], "never ends: leave the option out"),
        (["resize", "3", "--timeout", "inf"], "'inf' is no number of seconds"),
        (["resize", "--weight", "shard-0"], "'shard-0' is no weight: write for example shard-0=2"),
        (["resize", "--weight", "shard-0=nan"], "'shard-0=nan' is no weight"),
        (["drain", "shard-0", "--timeout", "nan"], "'nan' is no number of seconds"),
        (["down", "--name", "../other"], "cluster name '../other' is not valid: use 1 to 47"),
        (["status", "--name", "n" * 300], "is not valid: use 1 to 47"),
        (["get", "k", "--name", ""], "cluster name '' is not valid"),
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


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("up", "can't use /proc/nowhere/stratacache: No such file or directory; set XDG_STATE_HOME to a directory"),
        ("get k", "no cache was found"),
    ],
)
def test_where_nothing_can_be_remembered_nothing_is_started(shell: Shell, command: str, expected: str) -> None:
    """As in a container without a home that can be written: what only looks needs none."""
    line = Shell(shell.home, {"XDG_STATE_HOME": "/proc/nowhere"}).refused(*command.split())
    assert expected in line
    assert not (shell.home / "ray").exists()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ('{"insecure": "false"}', "insecure is 'false'; it must be true or false"),
        ('{"shards": 2.5}', "shards is 2.5; it must be a whole number"),
        ('{"shards": true}', "shards is True; it must be a whole number"),
        ('{"prefetch_seconds_a_minute": NaN}', "prefetch_seconds_a_minute is nan; it must be a finite number"),
        ('{"host": 5}', "host is 5; it must be text"),
        ('{"metrics_port": "9100"}', "metrics_port is '9100'; it must be a whole number"),
        ('{"data_dir": 7}', "data_dir is 7; it must be text"),
        ('{"shard": 3}', "unknown field 'shard'"),
        ("[]", "no JSON object"),
    ],
)
def test_a_controllers_file_with_a_value_of_another_type_is_refused(tmp_path: Path, fields: str, expected: str) -> None:
    """The field is named. "false" in quotes is not taken for true, which would open the cache to everybody."""
    file = tmp_path / "config.json"
    file.write_text(fields)
    with pytest.raises(UsageError, match=re.escape(str(file))) as refused:
        read_config(file, None)
    assert expected in str(refused.value)


def test_a_controllers_file_may_leave_out_and_set_to_nothing_what_can_be(tmp_path: Path) -> None:
    """Whole numbers stand for others, and null for what is optional."""
    file = tmp_path / "config.json"
    file.write_text('{"cpus_per_shard": 1, "metrics_port": null, "data_dir": null, "insecure": true}')
    config = read_config(file, None)
    assert (config.cpus_per_shard, config.metrics_port, config.data_dir, config.insecure) == (1, None, None, True)


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
