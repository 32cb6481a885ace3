"""docs/PROTOCOL.md and the command table say the same."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import hiredis
import pytest

from stratacache.client.ring import Ring
from stratacache.client.view import SUSPENDED, ShardInfo, View
from stratacache.node.resp import commands
from stratacache.node.resp.table import COMMANDS
from tests.wire.inprocess import InProcess
from tests.wire.raw import request

assert commands.__all__, "importing the commands fills the table"

PAGE = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text()


def native_rows() -> dict[str, str]:
    """Usage of each SC. command, as its row of the table gives it."""
    return {
        usage.split()[0]: usage.replace("\\|", "|") for usage in re.findall(r"^\| `(SC\.[^`]+)`", PAGE, re.MULTILINE)
    }


def parse(data: bytes) -> Any:
    """The only reply in `data`."""
    reader = hiredis.Reader()
    reader.feed(data)
    reply = reader.gets()
    assert reader.gets() is False
    return reply


def test_every_native_command_has_a_row_and_every_row_a_command() -> None:
    """The page neither leaves a command out nor promises one that is not there."""
    assert native_rows().keys() == {name.decode() for name in COMMANDS if name.startswith(b"SC.")}


def test_the_usage_fits_the_arity() -> None:
    """As many words as stand outside brackets in the usage are what the command asks for."""
    for name, usage in native_rows().items():
        needed = re.sub(r"\[[^\[\]]*(\[[^\]]*\])?[^\[\]]*\]", "", usage)
        needed = re.sub(r"\{([^}]*)\}\*n", r"\1", needed)
        count = len(needed.split())
        found = COMMANDS[name.encode()]
        optional = (usage != needed and "}*n" not in usage) or "[" in usage
        assert found.arity == (-count if optional else count), f"{name}: arity {found.arity}, usage {usage!r}"


def position(text: bytes) -> int:
    return int.from_bytes(hashlib.md5(text).digest()[:8], "big")


def points_by_the_page(view: View) -> list[tuple[int, str]]:
    """What somebody would write who has read "The ring" alone."""
    return sorted(
        (position(f"{shard.id}-{number}".encode()), shard.id)
        for shard in view.shards
        for number in range(max(1, round(1024 * shard.weight)))
    )


def owners_by_the_page(view: View, points: list[tuple[int, str]], key: bytes) -> list[str]:
    """The same for the owners of a key."""
    at = position(key)
    first = sum(point <= at for point, _ in points)
    walked = list(dict.fromkeys(shard for _, shard in points[first:] + points[:first]))
    places = {shard.id: shard.group or shard.node or shard.id for shard in view.shards}
    apart = [one for n, one in enumerate(walked) if places[one] not in {places[before] for before in walked[:n]}]
    return list(dict.fromkeys(apart[: view.replicas] + walked))[: view.replicas]


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_the_ring_is_that_of_the_page(replicas: int) -> None:
    """Weights, places that several shards share, and a shard that is suspended."""
    shards = (
        ShardInfo(id="shard-0", node="a"),
        ShardInfo(id="shard-1", node="a", weight=0.5),
        ShardInfo(id="shard-2", node="b", state=SUSPENDED),
        ShardInfo(id="shard-3", node="c", group="a"),
        ShardInfo(id="shard-10", node="b", weight=2.0),
    )
    view = View(epoch=1, replicas=replicas, shards=shards)
    ring, points = Ring(view), points_by_the_page(view)
    for number in range(50):
        key = b"docs:key-%d" % number
        assert [shard.id for shard in ring.owners(key)] == owners_by_the_page(view, points, key)


def test_every_redis_command_is_listed_with_its_subcommands() -> None:
    """The table of Redis commands is complete, and names the subcommands."""
    section = PAGE.split("## Redis commands")[1].split("What differs")[0]
    listed = dict(re.findall(r"`([A-Z]+)`(?: \(([A-Z0-9 -]+)\))?", section))
    assert listed.keys() == {name.decode() for name in COMMANDS if not name.startswith(b"SC.")}
    for name, found in COMMANDS.items():
        if found.subcommands:
            assert set(listed[name.decode()].split()) == {sub.decode() for sub in found.subcommands}, name


def test_replies_have_the_shape_that_the_page_gives() -> None:
    """The names of SC.HELLO and the fields of SC.GETX stand on the page in their order."""
    node = InProcess()
    reply = parse(node.run([request("SC.HELLO", 1)])[0])
    row = next(line for line in PAGE.splitlines() if line.startswith("| `SC.HELLO"))
    assert [name.decode() for name in reply[::2]] == re.findall(r"`(\w+)`", row.split("Reply:")[1])
    put = request("SC.PUT", "k", "v", "CODEC", 1, "PX", 5000, "COST", "2.5", "TAGS", 1, "t", "META", "m")
    reply = parse(node.run([put + request("SC.GETX", "k")])[0].removeprefix(b"+OK\r\n"))
    assert "[codec, payload, ttl_ms (-1: none), cost_s (text), version, seq, [tag ...], metadata]" in PAGE
    assert reply == [1, b"v", 5000, b"2.5", node.engine.gate.seq, 0, [b"t"], b"m"]


def test_pushes_are_those_of_the_page() -> None:
    """The forms of the two pushes."""
    assert '["sc.inv", seq, kind, [name ...]]' in PAGE
    assert '["sc.beat", seq, epoch]' in PAGE
    node = InProcess()
    watcher, seen = node.connect()
    watcher.data_received(request("HELLO", 3) + request("SC.WATCH"))
    seen.written.clear()
    node.engine.invalidate_tags([b"t"])
    node.clock.advance(1000)
    node.server.flush_pushes()
    assert seen.written == b">4\r\n$6\r\nsc.inv\r\n:1\r\n$4\r\ntags\r\n*1\r\n$1\r\nt\r\n"
