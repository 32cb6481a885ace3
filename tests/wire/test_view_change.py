"""Invalidations that take a while, beside a view change: only what the handed-over debts hold may be acknowledged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.groups import PAGE_ENTRIES_MAX
from stratacache.node.residents import KILL_PAGES
from stratacache.node.resp.server import NodeServer
from tests.wire.inprocess import InProcess
from tests.wire.raw import request

ENTRIES = PAGE_ENTRIES_MAX * (KILL_PAGES + 1)


def held(server: NodeServer) -> None:
    """A view has been prepared."""
    server.hold_invalidations = True


def changed(server: NodeServer) -> None:
    """A view has been prepared and activated."""
    server.set_view(b"view", server.epoch + 1)


def nothing(server: NodeServer) -> None:
    """The view stays."""


@pytest.mark.parametrize("words", [("SC.INVTAGS", "t"), ("SC.INVNS", "default"), ("SC.CLEAR",), ("FLUSHALL",)])
@pytest.mark.parametrize(("happens", "refused"), [(held, True), (changed, True), (nothing, False)])
def test_an_invalidation_counts_under_one_view(
    words: tuple[str, ...], happens: Callable[[NodeServer], None], refused: bool
) -> None:
    """What was not yet done when a view was prepared is missing in the debts: it is refused, and so repeated."""
    node = InProcess()
    node.engine = node.server.engine = MultiLevelCache(
        NodeConfig(l1_bytes_max=64 << 20), clock=node.clock, post=node.loop.call_soon_threadsafe
    )
    for number in range(ENTRIES):
        node.engine.put(b"k%d" % number, b"v", tags=(b"t",))
    node.server.set_view(b"view", 3)
    connection, transport = node.connect()
    connection.data_received(request(*words))
    assert not transport.written, "it has to take more than one slice"
    happens(node.server)
    node.loop.run()
    answer = bytes(transport.written)
    assert answer.startswith(b"-SUSPENDED ") is refused, answer
    assert refused or answer in (b":%d\r\n" % ENTRIES, b"+OK\r\n")
    assert node.engine.get(b"k0") is None
    connection.connection_lost(None)
    node.engine.close(1)
