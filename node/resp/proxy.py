"""Keys of other shards: native clients are told where to go, plain clients are served from there in one hop.

A command whose keys have one owner is forwarded whole. MGET, MSET, DEL, UNLINK, EXISTS and TOUCH are split by owner;
DBSIZE, KEYS, SCAN, FLUSHALL and FLUSHDB ask every shard. Inside MULTI each command is routed for itself: what
lies on one shard is one transaction there only if it is the shard that the client is connected to.

Invariants: what came over a native connection is never forwarded, so a call travels one hop at most; a shard that does
not answer makes the command fail, never look like a miss; replies keep the order of the keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

from stratacache.node.errors import InvalidationIncompleteError, UnavailableError
from stratacache.node.keys import canonical
from stratacache.node.resp.arguments import cursor_of
from stratacache.node.resp.replies import CommandError, Status, encode, error
from stratacache.node.resp.routing import Forwarder
from stratacache.node.resp.table import Command, Flag, Later, Reply

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection

_STATUS: Final = frozenset({"set", "setex", "psetex", "mset", "type", "sc.put", "sc.touched"})
_SUMS: Final = frozenset({"del", "unlink", "exists", "touch", "sc.invalidate", "sc.release"})
_LISTS: Final = frozenset({"mget", "sc.mget", "sc.mgetx", "sc.mlease", "sc.mleasex"})


def route(connection: Connection, forwarder: Forwarder, found: Command, argv: list[bytes]) -> Reply | None:
    """The reply from elsewhere, or None when the command is to run here."""
    keys = found.keys(argv)
    if not keys:
        if connection.native or not found.flags & Flag.SPANS:
            return None
        return _later(connection, _span(connection, forwarder, found, argv), found, argv)
    owner = forwarder.reader if found.reads else forwarder.owner
    owners = [owner(canonical(raw)) for raw in keys]
    foreign = [owner for owner in owners if owner is not None]
    if not foreign:
        return None
    if connection.native:
        return error(f"MOVED {connection.server.epoch} {foreign[0]}")
    if len(set(owners)) == 1:
        return _later(connection, _call(forwarder, foreign[0], argv), found, argv)
    return _later(connection, _split(connection, forwarder, found, argv, owners), found, argv)


def _later(connection: Connection, work: Coroutine[Any, Any, object], found: Command, argv: list[bytes]) -> Later:
    """Run `work` on the loop; its result is the parsed reply, in which a status looks like a value."""
    task = connection.server.loop.create_task(work)
    gives_value = found.name == "set" and any(word.upper() == b"GET" for word in argv[3:])

    def reply(value: object) -> bytes:
        if (found.name in _STATUS and value == b"OK" and not gives_value) or found.name == "type":
            value = Status(cast("bytes", value))
        return encode(value, connection.resp)

    return Later(task, reply)


async def _call(forwarder: Forwarder, shard: str, argv: Sequence[bytes]) -> object:
    try:
        return await forwarder.call(shard, argv)
    except CommandError as refusal:
        if str(refusal).startswith("MOVED"):
            raise UnavailableError("the owner of the key is just changing: try again") from None
        raise


async def _here(connection: Connection, found: Command, argv: list[bytes]) -> object:
    """Run a command on this shard and parse its reply."""
    arrivals = connection.server.arrivals
    if arrivals is not None and (keys := [canonical(raw) for raw in found.keys(argv)]):
        while (waiting := arrivals.settle(keys)) is not None:
            await asyncio.wrap_future(waiting)
            forwarder = connection.server.forwarder
            if forwarder is not None and any(forwarder.owner(key) is not None for key in keys):
                raise UnavailableError("the owner of the key is just changing: try again")
    reply = found.handler(connection, argv)
    while isinstance(reply, Later):
        future = reply.future
        result = await (asyncio.wrap_future(future) if isinstance(future, Future) else future)
        reply = reply.then(result)
    reader = hiredis.Reader()
    reader.feed(reply)
    value = reader.gets()
    if isinstance(value, hiredis.ReplyError):
        raise CommandError(str(value))
    return value


async def _all(work: Sequence[Awaitable[object]]) -> list[object]:
    """Wait for everything that was sent, then raise the first error, if any."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def _split(
    connection: Connection, forwarder: Forwarder, found: Command, argv: list[bytes], owners: list[str | None]
) -> object:
    """Run a many-key command at every owner, each with its own keys, and merge the replies."""
    if found.name not in _SUMS | _LISTS | {"mset"} or found.last != -1:
        raise CommandError(f"CROSSSHARD the keys of '{found.name}' have different owners: send them one by one")
    step = found.step
    if (len(argv) - found.first) % step:  # before any share is carried out
        raise CommandError(f"ERR wrong number of arguments for '{found.name}' command")
    head = argv[: found.first]
    shares: dict[str | None, list[int]] = {}
    for index, owner in enumerate(owners):
        shares.setdefault(owner, []).append(index)

    def words(indexes: list[int]) -> list[bytes]:
        start = found.first
        return head + [word for index in indexes for word in argv[start + index * step : start + (index + 1) * step]]

    work = [
        _here(connection, found, words(indexes)) if owner is None else _call(forwarder, owner, words(indexes))
        for owner, indexes in shares.items()
    ]
    parts = await _all(work)
    if found.name in _SUMS:
        return sum(cast("list[int]", parts))
    if found.name == "mset":
        return b"OK"
    merged: list[object] = [None] * len(owners)
    codecs = bytearray(len(owners))
    for indexes, part in zip(shares.values(), parts, strict=True):
        values = cast("list[object]", part)
        if found.name == "sc.mget":  # the codecs of all stand before the payloads
            own, *values = values
            for index, codec in zip(indexes, cast("bytes", own), strict=True):
                codecs[index] = codec
        for index, value in zip(indexes, values, strict=True):
            merged[index] = value
    return [bytes(codecs), *merged] if found.name == "sc.mget" else merged


async def _span(connection: Connection, forwarder: Forwarder, found: Command, argv: list[bytes]) -> object:
    """Run a command about all shards."""
    if found.name == "scan":
        return await _scan(connection, forwarder, found, argv)
    others = list(forwarder.shards())
    merge, flushes = _MERGES[found.name]
    work = [_here(connection, found, argv), *[_call(forwarder, shard, argv) for shard in others]]
    if not flushes:
        return merge(await _all(work))
    results = await asyncio.gather(*work, return_exceptions=True)
    names = [connection.server.identity.shard, *others]
    for result in results:
        if isinstance(result, CommandError) and not str(result).startswith(("SUSPENDED", "MOVED", "LOADING")):
            raise result
    missing = [name for name, result in zip(names, results, strict=True) if isinstance(result, BaseException)]
    if missing:
        raise InvalidationIncompleteError("everything", tuple(missing))
    return Status(b"OK")


def _flat(parts: list[Any]) -> object:
    return [key for part in parts for key in part]


_MERGES: Final[dict[str, tuple[Callable[[list[Any]], object], bool]]] = {
    "dbsize": (sum, False),
    "keys": (_flat, False),
    "flushall": (_flat, True),
    "flushdb": (_flat, True),
}


async def _scan(connection: Connection, forwarder: Forwarder, found: Command, argv: list[bytes]) -> object:
    """One step of a scan over all shards, in the order of their names.

    The cursor is `cursor on the shard * shards + number of the shard`, so any shard can go on with it. A scan that a
    change of the view overtakes may list keys twice or not at all, as Redis Cluster's.
    """
    own = connection.server.identity.shard
    shards = sorted({own, *forwarder.shards()})
    local, number = divmod(cursor_of(argv[1]), len(shards))
    words = [argv[0], b"%d" % local, *argv[2:]]
    shard = shards[number]
    part = await (_here(connection, found, words) if shard == own else _call(forwarder, shard, words))
    cursor_text, keys = cast("tuple[bytes, list[bytes]]", part)
    cursor = int(cursor_text)
    following = cursor * len(shards) + number if cursor else (number + 1) % len(shards)
    return [b"%d" % following, keys]
