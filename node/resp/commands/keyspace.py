"""Commands about keys, whatever is under them: delete, exist, list, count, flush."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Final

from stratacache.node.keys import canonical
from stratacache.node.resp.arguments import SYNTAX, cursor_of, glob, integer_in, integer_of
from stratacache.node.resp.commands.entries import gather
from stratacache.node.resp.commands.helps import enter_help
from stratacache.node.resp.dispatch import when
from stratacache.node.resp.replies import OK, CommandError, array, bulk, bulks, integer, status
from stratacache.node.resp.table import Flag, Later, Reply, command
from stratacache.node.scan import SCAN_DISK

if TYPE_CHECKING:
    from stratacache.node.entry import Entry
    from stratacache.node.resp.connection import Connection

_INT_BYTES_MAX: Final = 20
_EMBSTR_BYTES_MAX: Final = 44


@command("del", -2, Flag.WRITE, (1, -1, 1), group="generic")
def delete(connection: Connection, argv: list[bytes]) -> Reply:
    """Remove keys."""
    return when(connection.engine.invalidate_keys([canonical(raw) for raw in argv[1:]]), integer)


@command("unlink", -2, Flag.WRITE, (1, -1, 1), group="generic")
def unlink(connection: Connection, argv: list[bytes]) -> Reply:
    """Remove keys (the same as DEL: memory is given back outside the request either way)."""
    return delete(connection, argv)


@command("exists", -2, Flag.READ, (1, -1, 1), group="generic")
def exists(connection: Connection, argv: list[bytes]) -> Reply:
    """Count the keys that exist; one that is named twice counts twice."""
    peek = connection.engine.peek
    found = [peek(canonical(raw)) for raw in argv[1:]]
    return gather(found, lambda entries: integer(sum([entry is not None for entry in entries])))


@command("touch", -2, Flag.READ, (1, -1, 1), group="generic")
def touch(connection: Connection, argv: list[bytes]) -> Reply:
    """Count the keys that exist, and note for eviction that they are wanted."""
    get = connection.engine.get
    found = [get(canonical(raw)) for raw in argv[1:]]
    return gather(found, lambda entries: integer(sum([entry is not None for entry in entries])))


@command("type", 2, Flag.READ, (1, 1, 1), group="generic")
def type_(connection: Connection, argv: list[bytes]) -> Reply:
    """Type of a key: string or none."""
    found = connection.engine.peek(canonical(argv[1]))
    return when(found, lambda entry: status(b"none" if entry is None else b"string"))


@command("object", -2, group="generic")
def object_(connection: Connection, argv: list[bytes]) -> Reply:
    """Internals of a key."""
    raise NotImplementedError("dispatch resolves the subcommand")


@command("object|encoding", 3, Flag.READ, (2, 2, 1), group="generic")
def object_encoding(connection: Connection, argv: list[bytes]) -> Reply:
    """Encoding that Redis gives a fresh value like the one under a key."""

    def encoding(entry: Entry | None) -> bytes:
        if entry is None:
            return connection.null
        size = _EMBSTR_BYTES_MAX + 1 if entry.packed else entry.payload_bytes  # nothing short is packed
        if size <= _INT_BYTES_MAX and integer_in(entry.payload) is not None:
            return bulk(b"int")
        return bulk(b"embstr" if size <= _EMBSTR_BYTES_MAX else b"raw")

    return when(connection.engine.peek(canonical(argv[2])), encoding)


@command("dbsize", 1, Flag.READ | Flag.SPANS, group="server")
def dbsize(connection: Connection, argv: list[bytes]) -> Reply:
    """Count the keys."""
    return integer(len(connection.engine))


def _flush(connection: Connection, argv: list[bytes]) -> Reply:
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"ASYNC", b"SYNC")):
        raise CommandError(SYNTAX)
    return when(connection.engine.clear(), lambda _: OK)


@command("flushall", -1, Flag.WRITE | Flag.SPANS | Flag.INVALIDATES, group="server")
def flushall(connection: Connection, argv: list[bytes]) -> Reply:
    """Remove all keys."""
    return _flush(connection, argv)


@command("flushdb", -1, Flag.WRITE | Flag.SPANS | Flag.INVALIDATES, group="server")
def flushdb(connection: Connection, argv: list[bytes]) -> Reply:
    """Remove all keys (there is one database)."""
    return _flush(connection, argv)


def _matcher(pattern: bytes) -> Callable[[bytes], bool] | None:
    if pattern == b"*":
        return None
    match = glob(pattern).match
    return lambda key: match(key) is not None


@command("keys", 2, Flag.READ | Flag.SPANS, group="generic")
def keys(connection: Connection, argv: list[bytes]) -> Reply:
    """List the keys that match a pattern."""
    match = _matcher(argv[1])
    found: dict[bytes, None] = {}
    size = 0

    def go_on(cursor: int) -> Reply:
        """Walk memory in one go, and the disk in slices between which others get their turn."""
        nonlocal size
        while True:
            cursor, some = connection.engine.scan(cursor, 10_000, match)
            size += sum(map(len, some))
            connection.check_reply_bytes(size)
            found.update(dict.fromkeys(some))
            if not cursor:
                return bulks(list(found))
            if cursor >= SCAN_DISK:
                later: Future[int] = Future()
                connection.server.post(partial(later.set_result, cursor))
                return Later(later, go_on)

    return go_on(0)


@command("scan", -2, Flag.READ | Flag.SPANS, group="generic")
def scan(connection: Connection, argv: list[bytes]) -> Reply:
    """List keys step by step."""
    cursor = cursor_of(argv[1])
    count = 10
    match: Callable[[bytes], bool] | None = None
    wanted = True
    for index in range(2, len(argv), 2):
        option = argv[index].upper()
        if index + 1 == len(argv) or option not in (b"COUNT", b"MATCH", b"TYPE"):
            raise CommandError(SYNTAX)
        if option == b"COUNT":
            count = integer_of(argv[index + 1])
            if count < 1:
                raise CommandError(SYNTAX)
        elif option == b"MATCH":
            match = _matcher(argv[index + 1])
        else:
            wanted = argv[index + 1].lower() == b"string"
    cursor, found = connection.engine.scan(cursor, min(count, 100_000), match)
    connection.check_reply_bytes(sum(map(len, found)))
    return array([bulk(b"%d" % cursor), bulks(found if wanted else [])])


enter_help("object")
