"""Between the owners of a key: streams of changes, and looking for what one of them lacks.

A shard whose keys have one owner each refuses all of them.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from stratacache.node.entry import NEVER_MS, Entry
from stratacache.node.keys import canonical
from stratacache.node.resp.arguments import count_of, cursor_of
from stratacache.node.resp.commands.entries import bulk_of, gather
from stratacache.node.resp.dispatch import when
from stratacache.node.resp.replies import CommandError, array, bulk, bulks, integer
from stratacache.node.resp.table import Flag, Later, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection
    from stratacache.node.resp.routing import Copies

PULLED_BYTES: Final = 1 << 20
"""How much of the entries that another owner asks for is sent at once, but for the last of them."""


def _copies(connection: Connection) -> Copies:
    copies = connection.server.copies
    if copies is None:
        raise CommandError("ERR this shard keeps the only copy of its keys")
    return copies


@command("sc.stream", 4, Flag.ADMIN, group="native")
def sc_stream(connection: Connection, argv: list[bytes]) -> Reply:
    """Begin or resume a shard's stream of changes: the number of the last one that was applied and recorded."""
    shard, incarnation = argv[1].decode("utf-8", "replace"), argv[2].decode("utf-8", "replace")
    sender = (shard, incarnation, count_of(argv[3], "lane", 0, 1))
    applied, pending = _copies(connection).open(sender)
    connection.stream = sender
    return gather(pending, lambda _: integer(applied))


@command("sc.repl", -3, Flag.ADMIN, group="native")
def sc_repl(connection: Connection, argv: list[bytes]) -> Reply:
    """Apply one change of the stream; answered with its number when it is recorded here and behind."""
    if connection.stream is None:
        raise CommandError("ERR SC.STREAM first")
    seq = count_of(argv[1], "number", 1)
    done = _copies(connection).take(connection.stream, seq, argv[2:])
    return when(done, lambda _: integer(seq))


def _fields(connection: Connection, entry: Entry | None) -> bytes:
    if entry is None:
        return connection.null
    ttl_ms = -1 if entry.expires_ms == NEVER_MS else max(0, entry.expires_ms - connection.engine.now_ms())
    head = [integer(entry.codec), bulk_of(entry), integer(ttl_ms), bulk(b"%r" % entry.cost_s), bulk(entry.metadata)]
    return array([*head, *map(bulk, entry.tags)])


@command("sc.pull", -2, Flag.READ, (1, -1, 1), group="native")
def sc_pull(connection: Connection, argv: list[bytes]) -> Reply:
    """What this owner has of keys that another one lacks: of the first of them, as much as is sent at once."""
    return _pull(connection, [canonical(raw) for raw in argv[1:]], [], 0)


def _pull(connection: Connection, keys: list[bytes], replies: list[bytes], size: int) -> Reply:
    """Go on behind the keys that are answered; one after the other, so that no more than one too many is held."""
    copies = _copies(connection)
    for at in range(len(replies), len(keys)):
        if size >= PULLED_BYTES:
            break
        found = copies.held(keys[at])
        if isinstance(found, Future):

            def arrived(entry: Entry | None, size: int = size) -> Reply:
                replies.append(_fields(connection, entry))
                return _pull(connection, keys, replies, size + len(replies[-1]))

            return Later(found, arrived)
        replies.append(_fields(connection, found))
        size += len(replies[-1])
    return array(replies)


@command("sc.shared", 4, Flag.READ, group="native")
def sc_shared(connection: Connection, argv: list[bytes]) -> Reply:
    """Keys held here that another shard owns too, step by step as with SCAN."""
    shard = argv[1].decode("utf-8", "replace")
    cursor, keys = _copies(connection).shared(shard, cursor_of(argv[2]), count_of(argv[3], "count", 1, 100_000))
    return array([bulk(b"%d" % cursor), bulks(keys)])
