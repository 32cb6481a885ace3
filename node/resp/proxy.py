"""Keys of other shards: native clients are told where to go, plain clients are served from there in one hop.

Invariant: what came over a native connection is never forwarded, so a call travels one hop at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratacache.node.keys import canonical
from stratacache.node.resp.replies import error
from stratacache.node.resp.routing import Forwarder
from stratacache.node.resp.table import Command, Reply

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection


def route(connection: Connection, forwarder: Forwarder, found: Command, argv: list[bytes]) -> Reply | None:
    """The reply from elsewhere, or None when the command is to run here."""
    for raw in found.keys(argv):
        owner = forwarder.owner(canonical(raw))
        if owner is not None:
            return error(f"MOVED {connection.server.epoch} {owner}")
    return None
