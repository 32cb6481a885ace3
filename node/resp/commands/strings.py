"""String commands: a value under a key, with Redis's options, conflicts and error texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stratacache.node.entry import NEVER_MS, Entry
from stratacache.node.keys import canonical
from stratacache.node.resp.arguments import SYNTAX, WRONG_TYPE, expires_at, integer_of
from stratacache.node.resp.commands.entries import bulk_of, change, gather, put_like, read
from stratacache.node.resp.dispatch import stored, when
from stratacache.node.resp.put_options import kept_ms
from stratacache.node.resp.replies import ONE, ZERO, CommandError, array, bulk, integer
from stratacache.node.resp.table import Flag, Reply, command

if TYPE_CHECKING:
    from concurrent.futures import Future

    from stratacache.node.resp.connection import Connection

TEXT_CODECS: Final = frozenset({0, 1})
"""Codecs whose payload is the value itself, so that it may be changed here."""

_UNITS: Final = frozenset({b"EX", b"PX", b"EXAT", b"PXAT"})


@dataclass(slots=True)
class Options:
    """Options of SET and GETEX."""

    condition: bytes = b""
    get: bool = False
    keep_ttl: bool = False
    persist: bool = False
    unit: bytes = b""
    time: bytes = b""


def parse_options(words: list[bytes], *, setting: bool) -> Options:
    """Read the options of SET (`setting`) or GETEX; raises the syntax error for a conflict."""
    options = Options()
    position = 0
    while position < len(words):
        word = words[position].upper()
        position += 1
        timed = bool(options.unit or options.keep_ttl or options.persist)
        if setting and word in (b"NX", b"XX") and options.condition in (b"", word):
            options.condition = word
        elif setting and word == b"GET":
            options.get = True
        elif setting and word == b"KEEPTTL" and not (options.unit or options.persist):
            options.keep_ttl = True
        elif not setting and word == b"PERSIST" and not options.unit:
            options.persist = True
        elif word in _UNITS and (not timed or options.unit == word) and position < len(words):
            options.unit = word
            options.time = words[position]
            position += 1
        else:
            raise CommandError(SYNTAX)
    return options


@command("get", 2, Flag.READ, (1, 1, 1))
def get(connection: Connection, argv: list[bytes]) -> Reply:
    """Get the value of a key."""
    found = connection.engine.get(canonical(argv[1]))
    if found is None:
        return connection.null
    if found.__class__ is Entry:
        return bulk_of(found)
    return when(found, lambda entry: connection.null if entry is None else bulk_of(entry))


def write(connection: Connection, key: bytes, value: bytes, expires_ms: int = NEVER_MS) -> bool | Future[bool]:
    """Store a plain value. One that has expired already only takes the place of what was there."""
    return connection.engine.put(key, value, expires_ms=expires_ms if expires_ms == NEVER_MS else kept_ms(expires_ms))


@command("set", -3, Flag.WRITE, (1, 1, 1))
def set_(connection: Connection, argv: list[bytes]) -> Reply:
    """Set a key to a value, with an expiry and a condition."""
    key = canonical(argv[1])
    value = argv[2]
    if len(argv) == 3:
        return stored(connection.engine.put(key, value))
    if len(argv) == 5 and (unit := argv[3].upper()) in _UNITS:  # the usual call, without the cost of the general one
        return stored(write(connection, key, value, expires_at(argv[4], unit, connection.engine.now_ms(), "set")))
    options = parse_options(argv[3:], setting=True)
    expires_ms = NEVER_MS
    if options.unit:
        expires_ms = expires_at(options.time, options.unit, connection.engine.now_ms(), "set")
    if not (options.condition or options.get or options.keep_ttl):
        return stored(write(connection, key, value, expires_ms))

    def decide(entry: Entry | None) -> Reply:
        before = connection.null if entry is None else bulk(entry.payload)
        if options.condition == (b"XX" if entry is None else b"NX"):
            return before if options.get else connection.null
        until_ms = entry.expires_ms if options.keep_ttl and entry is not None else expires_ms
        done = write(connection, key, value, until_ms)
        return stored(done, before) if options.get else stored(done)

    return change(connection, key, decide)


@command("setnx", 3, Flag.WRITE, (1, 1, 1))
def setnx(connection: Connection, argv: list[bytes]) -> Reply:
    """Set a key only when it does not exist."""
    key = canonical(argv[1])
    return change(
        connection, key, lambda entry: ZERO if entry is not None else stored(write(connection, key, argv[2]), ONE)
    )


def _set_for(connection: Connection, argv: list[bytes], unit: bytes, name: str) -> Reply:
    expires_ms = expires_at(argv[2], unit, connection.engine.now_ms(), name)
    return stored(write(connection, canonical(argv[1]), argv[3], expires_ms))


@command("setex", 4, Flag.WRITE, (1, 1, 1))
def setex(connection: Connection, argv: list[bytes]) -> Reply:
    """Set a key with an expiry in seconds."""
    return _set_for(connection, argv, b"EX", "setex")


@command("psetex", 4, Flag.WRITE, (1, 1, 1))
def psetex(connection: Connection, argv: list[bytes]) -> Reply:
    """Set a key with an expiry in milliseconds."""
    return _set_for(connection, argv, b"PX", "psetex")


@command("getset", 3, Flag.WRITE, (1, 1, 1))
def getset(connection: Connection, argv: list[bytes]) -> Reply:
    """Set a key and return its old value."""
    key = canonical(argv[1])

    def swap(entry: Entry | None) -> Reply:
        before = connection.null if entry is None else bulk(entry.payload)
        return stored(write(connection, key, argv[2]), before)

    return change(connection, key, swap)


@command("getdel", 2, Flag.WRITE, (1, 1, 1))
def getdel(connection: Connection, argv: list[bytes]) -> Reply:
    """Return the value of a key and remove it."""
    key = canonical(argv[1])

    def take(entry: Entry | None) -> Reply:
        if entry is None:
            return connection.null
        before = bulk(entry.payload)
        return when(connection.engine.remove(key), lambda _: before)

    return change(connection, key, take)


@command("getex", -2, Flag.WRITE, (1, 1, 1))
def getex(connection: Connection, argv: list[bytes]) -> Reply:
    """Return the value of a key and change its expiry."""
    key = canonical(argv[1])
    options = parse_options(argv[2:], setting=False)

    def renew(entry: Entry | None) -> Reply:
        if entry is None:
            return connection.null
        engine = connection.engine
        value = bulk(entry.payload)
        if options.persist and entry.expires_ms != NEVER_MS:
            return when(engine.set_expiry(key, NEVER_MS), lambda _: value)
        if options.unit:
            now_ms = engine.now_ms()
            expires_ms = expires_at(options.time, options.unit, now_ms, "getex")
            if expires_ms <= now_ms:
                return when(engine.remove(key), lambda _: value)
            return when(engine.set_expiry(key, kept_ms(expires_ms)), lambda _: value)
        return value

    return change(connection, key, renew)


@command("mget", -2, Flag.READ, (1, -1, 1))
def mget(connection: Connection, argv: list[bytes]) -> Reply:
    """Get the values of many keys."""
    lookup = connection.engine.get

    def reply(entries: list[Entry | None]) -> bytes:
        null = connection.null
        connection.check_reply_bytes(sum([entry.size for entry in entries if entry is not None]))
        return array([null if entry is None else bulk_of(entry) for entry in entries])

    return gather([lookup(canonical(raw)) for raw in argv[1:]], reply)


def _pairs(argv: list[bytes]) -> list[tuple[bytes, bytes]]:
    if len(argv) % 2 == 0:
        raise CommandError(f"ERR wrong number of arguments for '{argv[0].decode().lower()}' command")
    return [(canonical(argv[index]), argv[index + 1]) for index in range(1, len(argv), 2)]


@command("mset", -3, Flag.WRITE, (1, -1, 2))
def mset(connection: Connection, argv: list[bytes]) -> Reply:
    """Set many keys."""
    written = [write(connection, key, value) for key, value in _pairs(argv)]
    return gather(written, lambda done: stored(all(done)), applied=True)


@command("strlen", 2, Flag.READ, (1, 1, 1))
def strlen(connection: Connection, argv: list[bytes]) -> Reply:
    """Length of the value of a key."""
    return read(connection, canonical(argv[1]), lambda entry: ZERO if entry is None else integer(len(entry.payload)))


@command("append", 3, Flag.WRITE, (1, 1, 1))
def append(connection: Connection, argv: list[bytes]) -> Reply:
    """Append to the value of a key, which is made when it does not exist."""
    key = canonical(argv[1])

    def extend(entry: Entry | None) -> Reply:
        if entry is None:
            return stored(write(connection, key, argv[2]), integer(len(argv[2])))
        if entry.codec not in TEXT_CODECS:
            raise CommandError(WRONG_TYPE)
        value = entry.payload + argv[2]
        return stored(put_like(connection, entry, value), integer(len(value)))

    return change(connection, key, extend)


@command("msetnx", -3, Flag.WRITE, (1, -1, 2))
def msetnx(connection: Connection, argv: list[bytes]) -> Reply:
    """Set many keys if none of them exists."""
    pairs = _pairs(argv)

    def decide(entries: list[Entry | None]) -> Reply:
        if any(entry is not None for entry in entries):
            return ZERO
        return gather([write(connection, key, value) for key, value in pairs], lambda done: stored(all(done), ONE))

    return gather([connection.engine.peek(key) for key, _ in pairs], decide)


def _range(connection: Connection, argv: list[bytes]) -> Reply:
    start, end = integer_of(argv[2]), integer_of(argv[3])

    def part(entry: Entry | None) -> bytes:
        value = b"" if entry is None else entry.payload
        size = len(value)
        first = max(0, start + size if start < 0 else start)
        last = end + size if end < 0 else min(end, size - 1)
        if start < 0 and end < 0 and start > end:
            return bulk(b"")
        return bulk(value[first : max(0, last) + 1] if first <= max(0, last) else b"")

    return read(connection, canonical(argv[1]), part)


@command("getrange", 4, Flag.READ, (1, 1, 1))
def getrange(connection: Connection, argv: list[bytes]) -> Reply:
    """Part of the value of a key."""
    return _range(connection, argv)


@command("substr", 4, Flag.READ, (1, 1, 1))
def substr(connection: Connection, argv: list[bytes]) -> Reply:
    """Part of the value of a key (the old name of GETRANGE)."""
    return _range(connection, argv)


@command("setrange", 4, Flag.WRITE, (1, 1, 1))
def setrange(connection: Connection, argv: list[bytes]) -> Reply:
    """Overwrite part of the value of a key; a gap is filled with zero bytes."""
    key = canonical(argv[1])
    offset = integer_of(argv[2])
    if offset < 0:
        raise CommandError("ERR offset is out of range")
    limit = connection.engine.config.value_bytes_max

    def change_part(entry: Entry | None) -> Reply:
        if entry is not None and entry.codec not in TEXT_CODECS:
            raise CommandError(WRONG_TYPE)
        before = b"" if entry is None else entry.payload
        if not argv[3]:
            return integer(len(before))
        if offset + len(argv[3]) > limit:
            raise CommandError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
        value = before[:offset].ljust(offset, b"\0") + argv[3] + before[offset + len(argv[3]) :]
        done = write(connection, key, value) if entry is None else put_like(connection, entry, value)
        return stored(done, integer(len(value)))

    return change(connection, key, change_part)
