"""How handlers come by entries: read them, gather many, change one with nobody in between.

Invariants: a handler sees an entry that was alive at that moment; read-modify-write runs on the loop without a pause
between its read and its write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from stratacache.node.entry import NEVER_MS, Entry
from stratacache.node.resp.replies import CommandError, array, bulk, bulks, integer
from stratacache.node.resp.table import Later, Reply

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection

_READS_MAX: Final = 3


def read(connection: Connection, key: bytes, then: Callable[[Entry | None], Reply]) -> Reply:
    """Read a canonical key, counted as a hit or a miss."""
    found = connection.engine.get(key)
    if isinstance(found, Future):
        return Later(found, then)
    return then(found)


def change(connection: Connection, key: bytes, then: Callable[[Entry | None], Reply], reads: int = 0) -> Reply:
    """Run `then` on the live entry (or None) of a canonical key, so that it may write what follows from it.

    An entry that must come from disk is promoted first, then looked at again: somebody may have written meanwhile.
    One that does not fit in memory is never found there; its third reading is believed.
    """
    if reads:
        _check_owner(connection, key)
    found = connection.engine.own(key)
    if not isinstance(found, Future):
        return then(found)
    if reads == _READS_MAX:

        def believe(entry: Entry | None) -> Reply:
            _check_owner(connection, key)
            return then(entry)

        return Later(found, believe)
    promoted = connection.engine.get(key)
    if isinstance(promoted, Future):
        return Later(promoted, lambda _: change(connection, key, then, reads + 1))
    return then(promoted)


def _check_owner(connection: Connection, key: bytes) -> None:
    """Raise CommandError when the key has moved to another shard while the disk was read: its writer is there now."""
    forwarder = connection.server.forwarder
    owner = forwarder.owner(key) if forwarder is not None else None
    if owner is not None:
        raise CommandError(f"MOVED {connection.server.epoch} {owner}")


def gather(values: Sequence[Any], then: Callable[[list[Any]], Reply], *, applied: bool = False) -> Reply:
    """Wait for those of `values` that are futures (all under way already), then go on with all results.

    `applied`: as in Later.
    """
    results = list(values)
    return _gather(results, 0, then, applied)


def _gather(results: list[Any], start: int, then: Callable[[list[Any]], Reply], applied: bool) -> Reply:
    for index in range(start, len(results)):
        value = results[index]
        if isinstance(value, Future):

            def arrived(result: Any, index: int = index) -> Reply:
                results[index] = result
                return _gather(results, index + 1, then, applied)

            return Later(value, arrived, applied=applied)
    return then(results)


def put_like(connection: Connection, entry: Entry, payload: bytes) -> bool | Future[bool]:
    """Store another payload under an entry's key and keep everything else: expiry, tags, cost, codec, metadata."""
    return connection.engine.put(
        entry.key,
        payload,
        expires_ms=entry.expires_ms,
        tags=entry.tags,
        cost_s=entry.cost_s,
        codec=entry.codec,
        metadata=entry.metadata,
    )


def bulk_of(entry: Entry) -> bytes:
    """The payload as a bulk reply."""
    return entry.frame or entry.build_frame()


def everything_of(connection: Connection, entry: Entry | None, seq: int) -> bytes:
    """Everything that is known of an entry, for a near cache.

    `seq` is the number of the last push when the read began. At its end it may be too late: between reading from disk
    and answering, an invalidation may have been pushed that this value is older than.
    """
    if entry is None:
        return connection.null
    now_ms = connection.engine.now_ms()
    return array(
        [
            integer(entry.codec),
            bulk_of(entry),
            integer(-1 if entry.expires_ms == NEVER_MS else max(0, entry.expires_ms - now_ms)),
            bulk(b"%r" % entry.cost_s),
            integer(entry.version),
            integer(seq),
            bulks(entry.tags),
            bulk(entry.metadata),
        ]
    )
