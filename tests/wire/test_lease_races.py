"""Fill leases and connections that end at the wrong moment."""

from __future__ import annotations

import asyncio

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.leases import LeaseReply
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import NodeServer


async def _ask(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"SC.LEASE k 30000 30000\r\n")
    return reader, writer


def test_a_lease_granted_to_a_client_that_has_just_gone_ends_with_it() -> None:
    """B waits for A's lease. A gives it up, B's grant is on its way, B's connection breaks: nobody holds it then."""

    async def story() -> None:
        engine = MultiLevelCache(NodeConfig(), post=asyncio.get_running_loop().call_soon_threadsafe)
        server = NodeServer(engine, ServerConfig(port=0))
        endpoints = await server.start()
        reader, first = await _ask(endpoints.port)
        await reader.readuntil(b"LEASE\r\n")
        _, second = await _ask(endpoints.port)
        while not any(lease.waiters for lease in engine.leases.live.values()):
            await asyncio.sleep(0)
        holder, waiter = server.connections.values()
        server.forget(holder)  # grants the lease to the waiter; its reply is scheduled, not sent
        assert len(engine.leases) == 1
        waiter.connection_lost(None)
        assert len(engine.leases) == 0
        first.close()
        second.close()
        await server.stop(1.0)
        engine.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_lease_of_the_process_before_is_none_of_this_one() -> None:
    """Without a disk both count from one: what was computed for the first may be older than an invalidation here."""

    def served() -> MultiLevelCache:
        engine = MultiLevelCache(NodeConfig())
        NodeServer(engine, ServerConfig(port=0))
        return engine

    before, now = served(), served()
    before.put(b"other", b"")
    old = before.lease(b"k", 0, 30_000)
    now.remove(b"k")
    new = now.lease(b"k", 0, 30_000)
    assert isinstance(old, LeaseReply)
    assert isinstance(new, LeaseReply)
    assert new.token
    assert now.put(b"k", b"stale", lease=old.token) is False
    assert now.get(b"k") is None
    assert now.put(b"k", b"fresh", lease=new.token) is True
