"""The node starts, serves plain and native commands on both sockets, and stops cleanly."""

from __future__ import annotations

import signal
import stat
from pathlib import Path

import msgpack

from stratacache.node.config import NodeConfig
from tests.wire.inprocess import InProcess
from tests.wire.processes import running_node
from tests.wire.raw import Raw


def test_plain_and_native_commands(node: Raw) -> None:
    """A value put natively reads plainly, and its tag takes it away."""
    assert node.run("PING") == ("+", "PONG")
    assert node.run("SC.PUT", "docs:a", "text", "CODEC", 1, "TAGS", 2, "m:1", "m:2", "PX", 60_000) == ("+", "OK")
    assert node.run("GET", "docs:a") == ("$", b"text")
    assert node.run("SC.GET", "docs:a") == ("*", [(":", "1"), ("$", b"text")])
    assert node.run("SC.INVTAGS", "m:2") == (":", "1")
    assert node.run("GET", "docs:a") == ("$", None)


def test_a_batch_may_have_a_time_for_each_key(node: Raw) -> None:
    """SC.MPUT: codecs and times (PXS) go to the keys in order; another number of them than of keys is refused."""
    pairs = ("e:a", "1", "e:b", "2")
    times = ("PXS", 2, 10_000, 90_000)
    assert node.run("SC.MPUT", b"\0\1", *pairs, *times, "COST", "0.5") == ("*", [(":", "1"), (":", "1")])
    left = [int(node.run("PTTL", key)[1]) for key in ("e:a", "e:b")]
    assert 0 < left[0] <= 10_000 < 80_000 < left[1] <= 90_000
    for wrong in (("PXS", 1, 5), ("PXS", 2, 5), ("PXS", 2, 5, 0), ("PXS", 0)):
        assert node.run("SC.MPUT", b"\0\1", *pairs, *wrong)[0] == "-", wrong
    for codecs in (b"", b"\0\0\0", b"\0"):
        assert node.run("SC.MPUT", codecs, *pairs)[0] == "-", codecs
    assert node.run("SC.GET", "e:b") == ("*", [(":", "1"), ("$", b"2")])
    assert node.run("SC.PUT", "e:a", "1", "PXS", 1, 5)[0] == "-"


def test_a_batch_may_have_a_lease_for_each_key(node: Raw) -> None:
    """SC.MPUT with LEASES: a void token refuses its key alone, an empty one asks for none."""
    token = node.run("SC.LEASE", "l:a", 0, 5000)[1][1][1]
    pairs = ("l:a", "1", "l:b", "2", "l:c", "3")
    leases = ("LEASES", 3, token, "nobody's", "")
    assert node.run("SC.MPUT", bytes(3), *pairs, *leases) == ("*", [(":", "1"), (":", "0"), (":", "1")])
    assert node.run("SC.MPUT", bytes(3), *pairs, "LEASES", 2, token, "")[0] == "-"
    assert node.run("SC.MPUT", bytes(3), *pairs, *leases) == ("*", [(":", "0"), (":", "0"), (":", "1")])


def test_a_batch_tells_a_void_lease_from_a_value_that_no_level_can_hold() -> None:
    """Who waits for the fill may have the one value; the other may be older than an invalidation."""
    node = InProcess(NodeConfig(l1_bytes_max=2000))
    connection, transport = node.connect()

    def run(*words: bytes) -> bytes:
        transport.written.clear()
        connection.data_received(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))
        node.loop.run()
        return bytes(transport.written)

    keys = [b"a", b"b"]
    tokens = [run(b"SC.LEASE", key, b"0", b"5000").split(b"\r\n")[4] for key in keys]
    run(b"SC.INVTAGS", b"red")
    large = b"x" * 3000
    pairs = [part for key in keys for part in (key, large)]
    assert run(b"SC.MPUT", bytes(2), *pairs, b"LEASES", b"2", *tokens) == b"*2\r\n:2\r\n:2\r\n"
    tokens = [run(b"SC.LEASE", key, b"0", b"5000").split(b"\r\n")[4] for key in keys]
    run(b"SC.INVALIDATE", b"a")
    assert run(b"SC.MPUT", bytes(2), *pairs, b"LEASES", b"2", *tokens) == b"*2\r\n:0\r\n:2\r\n"
    assert run(b"SC.MPUT", bytes(2), b"a", b"1", b"b", large) == b"*2\r\n:1\r\n:2\r\n"


def test_unix_socket_and_stop(tmp_path: Path) -> None:
    """The Unix socket is private, and SIGTERM ends the process with success."""
    path = tmp_path / "node.sock"
    with running_node("--unix", str(path)) as (process, port):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Raw(unix=str(path)) as near, Raw(port) as far:
            assert near.run("SET", "k", "v") == ("+", "OK")
            assert far.run("GET", "k") == ("$", b"v")
            _, blob = near.run("SC.VIEW")
            view = msgpack.unpackb(blob)
            assert (view["epoch"], view["shards"][0]["port"]) == (0, port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not path.exists()
