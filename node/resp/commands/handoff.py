"""What a shard asks the former owners of its keys after a change of the ring; see docs/CORRECTNESS.md.

Both commands work without a serving lease: what they give away has nobody else to change it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratacache.node.keys import canonical
from stratacache.node.resp.arguments import count_of
from stratacache.node.resp.dispatch import when
from stratacache.node.resp.replies import ONE, ZERO, CommandError, array, bulk
from stratacache.node.resp.table import Flag, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection
    from stratacache.node.resp.routing import Departures


def _departures(connection: Connection) -> Departures:
    departures = connection.server.departures
    if departures is None or not connection.native:
        raise CommandError("ERR this node hands nothing over")
    return departures


@command("sc.take", -5, Flag.ADMIN, group="native")
def sc_take(connection: Connection, argv: list[bytes]) -> Reply:
    """Take the entries of keys away from their former owner."""
    epoch = count_of(argv[1], "epoch")
    keys = [canonical(raw) for raw in argv[4:]]
    blobs = _departures(connection).take(epoch, argv[2].decode("utf-8", "replace"), argv[3], keys)
    null = connection.null
    return when(blobs, lambda found: array([null if blob is None else bulk(blob) for blob in found]))


@command("sc.drain", 4, Flag.ADMIN, group="native")
def sc_drain(connection: Connection, argv: list[bytes]) -> Reply:
    """Take the next entries, hottest first, away from their former owner."""
    epoch = count_of(argv[1], "epoch")
    batch = _departures(connection).drain(epoch, argv[2].decode("utf-8", "replace"), argv[3])
    if batch is None:
        return array([])

    def reply(found: list[bytes] | None) -> bytes:
        return array([ZERO] if found is None else [ONE, *map(bulk, found)])

    return when(batch, reply)
