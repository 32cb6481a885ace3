"""Requests for many keys whose entries move between the levels while the request is served."""

from __future__ import annotations

import pytest

from stratacache.node.config import NodeConfig
from stratacache.node.types import EvictionPolicy

from .inprocess import InProcess


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        *[((b"SC.MGET",), policy) for policy in EvictionPolicy],
        *[(words, EvictionPolicy.LRU) for words in ((b"MGET",), (b"SC.MGETX",), (b"SC.MLEASE", b"1000"))],
    ],
)
def test_a_value_that_another_of_the_batch_drove_into_l2_is_sent_unpacked(
    words: tuple[bytes, ...], policy: EvictionPolicy
) -> None:
    """The promotion of one key may demote the one that was found before it: its client gets the value all the same."""
    node = InProcess(NodeConfig(l1_bytes_max=6000, l2_bytes_max=1 << 20, policy=policy))
    for number in range(8):
        node.engine.put(b"k%d" % number, b"%d" % number * 2000)
    assert node.engine.l2 is not None
    above, below = list(node.engine.l1.table), list(node.engine.l2.table)
    keys = [above[0], *below[:3]]
    written, _ = node.run([command(*words, *keys)])
    assert [written.count(key[1:] * 2000) for key in keys] == [1] * len(keys)
    node.engine.validate()


def test_what_was_found_in_memory_is_sent_unpacked_after_the_others_came_from_disk(tmp_path: object) -> None:
    """While a large value of the batch is read from disk, what stood in L1 may have gone to L2."""
    node = InProcess(
        NodeConfig(l1_bytes_max=700_000, l2_bytes_max=1 << 20, l3_bytes_max=64 << 20, data_dir=tmp_path),  # type: ignore[arg-type]
        posts=True,
    )
    large = bytes(range(256)) * 2000
    node.engine.put(b"large", large)
    for number in range(30):
        node.engine.put(b"filler%d" % number, bytes([number]) * 100_000)
    node.settle()
    for number in range(30):
        node.engine.put(b"filler%d" % number, b"")
    node.engine.put(b"small", b"small" * 10_000)
    connection, transport = node.connect()
    connection.data_received(command(b"SC.MGET", b"small", b"large"))
    node.engine.put(b"huge", b"h" * 600_000)
    small = node.engine.residents.find(b"small")
    assert small is not None
    assert small.packed
    node.loop.run_until(lambda: bool(transport.written))
    assert transport.written.count(b"small" * 10_000) == 1
    node.engine.close()
