"""SUBSCRIBE, for one purpose: RESP2 clients hear of invalidations on the channel `__redis__:invalidate`.

A client that speaks RESP2 can't take pushes. Redis lets it redirect its tracking messages to a second connection that
has subscribed to this channel, and so do we. There is no PUBLISH: nothing is ever sent on any other channel.

Invariant: the channels of one client are bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stratacache.node.resp.replies import NULLS, CommandError, Notice, array, bulk, integer, push
from stratacache.node.resp.table import Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection

CHANNELS_MAX: Final = 1000
CHANNEL_BYTES_MAX: Final = 1024


def _notice(connection: Connection, kind: bytes, channel: bytes | None) -> bytes:
    name = NULLS[connection.resp] if channel is None else bulk(channel)
    items = [bulk(kind), name, integer(len(connection.channels))]
    return push(items) if connection.resp == 3 else array(items)


@command("subscribe", -2, group="pubsub")
def subscribe(connection: Connection, argv: list[bytes]) -> Reply:
    """Listen on channels; only __redis__:invalidate ever carries anything."""
    if len(connection.channels) + len(argv) - 1 > CHANNELS_MAX or any(
        len(name) > CHANNEL_BYTES_MAX for name in argv[1:]
    ):
        most = f"{CHANNELS_MAX} channels with names of {CHANNEL_BYTES_MAX} bytes"
        raise CommandError(f"LIMIT a client may listen on {most}: only __redis__:invalidate carries anything")
    notices = []
    for channel in argv[1:]:
        connection.channels[channel] = None
        notices.append(_notice(connection, b"subscribe", channel))
    connection.refresh_mode()
    return Notice(b"".join(notices))


@command("unsubscribe", -1, group="pubsub")
def unsubscribe(connection: Connection, argv: list[bytes]) -> Reply:
    """Stop listening, on all channels when none is named."""
    names: list[bytes | None] = list(argv[1:] or connection.channels) or [None]
    notices = []
    for channel in names:
        if channel is not None:
            connection.channels.pop(channel, None)
        notices.append(_notice(connection, b"unsubscribe", channel))
    connection.refresh_mode()
    return Notice(b"".join(notices))
