"""`stratacache top`, `bench` and `completion` against a real node: on a terminal, in a pipe, as JSON."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete
from rich.console import Console

from stratacache.client import MISS, CacheClient, connect
from stratacache.client.ring import Ring
from stratacache.client.view import SUSPENDED, ShardInfo, View
from stratacache.cluster import bench
from stratacache.cluster.cli import COMMANDS, cli, main
from stratacache.cluster.figures import picture
from stratacache.cluster.screen import drawn, duration
from stratacache.node.errors import CorruptionError
from tests.wire.processes import running_node


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A node."""
    with running_node() as (_, port):
        yield f"strata://127.0.0.1:{port}"


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


VIEW = View(
    epoch=7,
    cluster="c",
    shards=(
        ShardInfo(id="shard-0", host="10.0.0.1", port=6380),
        ShardInfo(id="shard-1", host="10.0.0.2", port=6380),
        ShardInfo(id="shard-2", host="10.0.0.3", port=6380, state=SUSPENDED),
    ),
)


def told(hits: int, misses: int, puts: int, *hot: tuple[str, int]) -> dict[str, Any]:
    level = {"hits": hits, "misses": misses, "entries": 2, "bytes_used": 100, "bytes_max": 400}
    figures = {"hits": hits, "misses": misses, "puts": puts, "entries": 2, "memory_bytes": 100, "saved_s": 1.5}
    return {**figures, "levels": {"l1_memory": level}, "hot": [list(one) for one in hot]}


def test_a_picture_adds_up_what_the_shards_tell() -> None:
    """Sums, ratios from sums, levels, the hottest keys of all; a shard that is silent or suspended says so."""
    found = picture(
        VIEW, {"shards": {"shard-0": told(30, 10, 5, ("a", 20), ("b", 3)), "shard-1": told(0, 40, 1, ("c", 9))}}
    )
    assert (found["cluster"], found["epoch"], found["ready"]) == ("c", 7, False)
    assert found["total"]["hits"] == 30
    assert found["total"]["hit_ratio"] == 30 / 80
    assert found["total"]["saved_s"] == 3.0
    assert found["total"]["gets_per_s"] is None
    assert found["levels"] == [
        {
            "level": "l1_memory",
            "hits": 30,
            "misses": 50,
            "entries": 4,
            "bytes_used": 200,
            "bytes_max": 800,
            "hit_ratio": 0.375,
        }
    ]
    assert [shard["state"] for shard in found["shards"]] == ["active", "active", "suspended"]
    assert sum(shard["share"] for shard in found["shards"]) == pytest.approx(1, abs=0.001)
    assert [one["key"] for one in found["hot"]] == ["a", "c", "b"]
    silent = picture(VIEW, {"shards": {"shard-0": told(1, 1, 1)}})
    assert [shard["state"] for shard in silent["shards"]] == ["active", "silent", "suspended"]


def test_rates_need_two_pictures_of_the_same_processes() -> None:
    """Gets and puts each second; none for a shard whose figures began anew."""
    earlier = picture(VIEW, {"shards": {"shard-0": told(10, 0, 2), "shard-1": told(500, 0, 0)}})
    later = picture(VIEW, {"shards": {"shard-0": told(30, 20, 12), "shard-1": told(5, 0, 0)}}, earlier, 2.0)
    assert (later["shards"][0]["gets_per_s"], later["shards"][0]["puts_per_s"]) == (20.0, 5.0)
    assert later["shards"][1]["gets_per_s"] is None
    assert later["total"]["gets_per_s"] == 20.0


def test_shares_of_the_ring_are_those_of_the_keys() -> None:
    """What part of 20,000 keys a shard gets is its share, weights included; a lone shard has all."""
    shards = tuple(ShardInfo(id=f"shard-{index}", weight=1 + index % 2) for index in range(5))
    ring = Ring(View(epoch=1, shards=shards))
    shares = ring.shares()
    assert sum(shares.values()) == pytest.approx(1)
    groups = ring.group(b"key-%d" % index for index in range(20_000))
    for shard, share in shares.items():
        assert len(groups[shard]) / 20_000 == pytest.approx(share, abs=0.015)
    assert Ring(View(epoch=1, shards=shards[:1])).shares() == {"shard-0": 1.0}


@pytest.mark.parametrize("width", [80, 200])
def test_the_screen_is_drawn_at_any_width(width: int) -> None:
    """Every shard, level and key is on it; what a key contains is neither markup nor a control character."""
    hot = (("[bold]user[/bold]\x1b[2J", 3),)
    figures = picture(VIEW, {"shards": {"shard-0": told(30, 10, 5, *hot), "shard-1": told(1, 1, 1)}})
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(drawn(figures))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in (
        "shard-0",
        "shard-2",
        "suspended",
        "75.0%",
        "l1_memory",
        "[bold]user[/bold]\N{REPLACEMENT CHARACTER}[2J",
    ):
        assert word in text, word
    assert "\x1b[2J" not in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_durations_for_people() -> None:
    """From seconds to days."""
    assert [duration(seconds) for seconds in (0, 59.96, 90, 5400, 200_000)] == [
        "0.0 s",
        "60.0 s",
        "1.5 min",
        "1.5 h",
        "2.3 d",
    ]


def test_top_once_and_as_json(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe there is text without control characters; JSON has the rates of one interval."""
    with connect(address) as cache:
        cache.clear()
        cache.put("hot", "v", cost_s=2.5)
        for _ in range(20):
            cache.get("hot")
    text = called(capsys, "top", "--address", address, "--once")
    assert "1 of 1 shards serve" in text
    assert re.search(r"^hot +shard-0", text, re.MULTILINE)
    assert "\x1b" not in text
    figures = json.loads(called(capsys, "top", "--address", address, "--json", "--interval", "0.2"))
    assert figures["total"]["saved_s"] >= 50.0
    assert figures["total"]["gets_per_s"] == 0.0
    assert figures["hot"][0]["key"] == "hot"
    assert figures["shards"][0]["share"] == 1.0
    assert json.loads(called(capsys, "top", "--address", address, "--json", "--once"))["total"]["gets_per_s"] is None


def test_top_on_a_terminal_goes_on_until_ctrl_c(address: str) -> None:
    """It draws more than once, and Ctrl-C ends it with status 0 and the terminal as it was."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "stratacache.cluster", "top", "--address", address, "--interval", "0.2"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    seen = b""
    until = time.monotonic() + 30
    try:
        while seen.count(b"Shards") < 3:
            assert time.monotonic() < until, seen[-500:]
            if select.select([leader], [], [], 1)[0]:
                seen += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            assert time.monotonic() < until
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    seen += os.read(leader, 65536)
                except OSError:
                    break
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)
        os.close(leader)
    assert b"\x1b[?1049h" in seen, "it takes the whole screen"
    assert b"Traceback" not in seen


INTERRUPTED_IN_A_FINALISER = """
import signal
from stratacache.cluster import screen
from stratacache.cluster.cli import main

class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def drawn(figures, drawn=screen.drawn):
    Finalised()
    return drawn(figures)

screen.drawn = drawn
main()
"""


def test_top_ends_by_an_interrupt_that_meets_a_finaliser(address: str) -> None:
    """Python drops the exception there ("Exception ignored in"): one Ctrl-C is enough all the same."""
    command = [sys.executable, "-c", INTERRUPTED_IN_A_FINALISER, "top", "--address", address, "--interval", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "KeyboardInterrupt" in done.stderr, "the interrupt was to be dropped: else this shows nothing"
    assert "Shards" in done.stdout


def test_an_interrupted_bench_leaves_nothing(address: str) -> None:
    """Whoever still writes when Ctrl-C comes has stopped before the namespace is emptied."""

    def interrupt(workload: str, part: float) -> None:
        raise KeyboardInterrupt

    plan = bench.Plan(seconds=10, keys=50, value_bytes=100, batch=10, clients=4, workloads=("put",))
    with connect(address) as cache:
        with pytest.raises(KeyboardInterrupt):
            bench.run(cache, plan, interrupt)
        for _ in range(20):
            assert cache.get_many([f"k{number}" for number in range(50)], namespace=bench.NAMESPACE) == {}


def test_bench_measures_and_leaves_nothing(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of call has its figures; the namespace is empty afterwards, and others are left alone."""
    with connect(address) as cache:
        cache.clear()
        cache.put("mine", 1)
        options = ("--seconds", "0.2", "--keys", "50", "--value-bytes", "1k", "--batch", "10", "--clients", "2")
        report = json.loads(called(capsys, "bench", "--address", address, *options, "--json"))
        assert set(report["workloads"]) == set(bench.WORKLOADS)
        for workload, figures in report["workloads"].items():
            assert figures["calls"] > 0, workload
            assert figures["failed"] == 0
            assert 0 < figures["p50_us"] <= figures["p99_us"]
        assert report["workloads"]["get_many"]["keys_per_s"] > 0
        assert cache.get("k1", namespace=bench.NAMESPACE) is MISS
        assert cache.get("mine") == 1
        text = called(capsys, "bench", "--address", address, *options)
        assert re.search(r"^get_many +[\d,]+ ", text, re.MULTILINE)


def test_bench_does_not_believe_a_wrong_value(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is not the one put ends the run, and the namespace is emptied all the same."""
    plan = bench.Plan(seconds=0.1, keys=4, value_bytes=10, batch=2, clients=1)
    real = CacheClient.get_many

    def wrong(self: CacheClient, keys: Any, *, namespace: str | None = None) -> Any:
        return dict.fromkeys(real(self, keys, namespace=namespace), b"wrong")

    with connect(address) as cache:
        monkeypatch.setattr(CacheClient, "get_many", wrong)
        with pytest.raises(CorruptionError, match="another value"):
            bench.run(cache, plan, lambda *_: None)
        monkeypatch.undo()
        assert cache.get_many(["k0", "k1", "k2", "k3"], namespace=bench.NAMESPACE) == {}


def test_every_command_that_reports_has_json() -> None:
    """What prints figures prints them as JSON too. The others serve until they are ended, or print a script."""
    context = click.Context(cli)
    for name in set(COMMANDS) - {"node", "controller", "completion"}:
        command = cli.get_command(context, name)
        assert command is not None
        assert "--json" in {option for parameter in command.params for option in parameter.opts}, name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script asks `stratacache` itself, which knows commands and options."""
    script = called(capsys, "completion", shell)
    assert f"_STRATACACHE_COMPLETE={shell}_complete" in script
    completer = BashComplete(cli, {}, "stratacache", "_STRATACACHE_COMPLETE")
    assert {item.value for item in completer.get_completions([], "st")} == {"status"}
    assert {item.value for item in completer.get_completions(["top"], "--int")} == {"--interval"}
    assert {item.value for item in completer.get_completions(["completion"], "")} == {"bash", "zsh", "fish"}
