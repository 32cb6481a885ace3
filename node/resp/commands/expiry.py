"""Expiry: when a key goes away, in seconds or milliseconds, from now or as a time of day.

Times of day are the node clock's epoch milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratacache.node.entry import NEVER_MS, Entry
from stratacache.node.keys import canonical
from stratacache.node.resp.arguments import INT64_MAX, integer_of, shown
from stratacache.node.resp.commands.entries import change
from stratacache.node.resp.dispatch import when
from stratacache.node.resp.put_options import FOREVER_MS, kept_ms
from stratacache.node.resp.replies import ONE, ZERO, CommandError, integer
from stratacache.node.resp.table import Flag, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection


def _conditions(words: list[bytes]) -> frozenset[bytes]:
    """Read NX, XX, GT, LT; raises CommandError for what does not go together."""
    found = frozenset(word.upper() for word in words)
    for word in words:
        if word.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            raise CommandError(f"ERR Unsupported option {shown(word)}")
    if b"NX" in found and len(found) > 1:
        raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if found >= {b"GT", b"LT"}:
        raise CommandError("ERR GT and LT options at the same time are not compatible")
    return found


def _holds(conditions: frozenset[bytes], entry: Entry, expires_ms: int) -> bool:
    current = entry.expires_ms
    return not (
        (b"NX" in conditions and current != NEVER_MS)
        or (b"XX" in conditions and current == NEVER_MS)
        or (b"GT" in conditions and expires_ms <= current)
        or (b"LT" in conditions and expires_ms >= current)
    )


def _expire(connection: Connection, argv: list[bytes], name: str, *, seconds: bool, relative: bool) -> Reply:
    key = canonical(argv[1])
    conditions = _conditions(argv[3:])
    now_ms = connection.engine.now_ms()
    value = integer_of(argv[2])
    wrong = CommandError(f"ERR invalid expire time in '{name}' command")
    if seconds:
        if abs(value) > INT64_MAX // 1000:
            raise wrong
        value *= 1000
    if relative:
        value += now_ms
    if value > INT64_MAX:
        raise wrong

    def renew(entry: Entry | None) -> Reply:
        if entry is None or not _holds(conditions, entry, min(value, FOREVER_MS)):
            return ZERO
        if value <= now_ms:
            return when(connection.engine.remove(key), lambda _: ONE)
        return when(connection.engine.set_expiry(key, kept_ms(value)), lambda done: ONE if done else ZERO)

    return change(connection, key, renew)


@command("expire", -3, Flag.WRITE, (1, 1, 1), group="generic")
def expire(connection: Connection, argv: list[bytes]) -> Reply:
    """Set the expiry of a key in seconds."""
    return _expire(connection, argv, "expire", seconds=True, relative=True)


@command("pexpire", -3, Flag.WRITE, (1, 1, 1), group="generic")
def pexpire(connection: Connection, argv: list[bytes]) -> Reply:
    """Set the expiry of a key in milliseconds."""
    return _expire(connection, argv, "pexpire", seconds=False, relative=True)


@command("expireat", -3, Flag.WRITE, (1, 1, 1), group="generic")
def expireat(connection: Connection, argv: list[bytes]) -> Reply:
    """Set the expiry of a key to a Unix time in seconds."""
    return _expire(connection, argv, "expireat", seconds=True, relative=False)


@command("pexpireat", -3, Flag.WRITE, (1, 1, 1), group="generic")
def pexpireat(connection: Connection, argv: list[bytes]) -> Reply:
    """Set the expiry of a key to a Unix time in milliseconds."""
    return _expire(connection, argv, "pexpireat", seconds=False, relative=False)


def _when(connection: Connection, argv: list[bytes], *, seconds: bool, relative: bool) -> Reply:
    def reply(entry: Entry | None) -> bytes:
        if entry is None:
            return integer(-2)
        if entry.expires_ms == NEVER_MS:
            return integer(-1)
        value = entry.expires_ms
        if relative:
            value = max(0, value - connection.engine.now_ms())
        return integer((value + 500) // 1000 if seconds else value)

    return when(connection.engine.peek(canonical(argv[1])), reply)


@command("ttl", 2, Flag.READ, (1, 1, 1), group="generic")
def ttl(connection: Connection, argv: list[bytes]) -> Reply:
    """Seconds until a key expires; -1 without expiry, -2 without key."""
    return _when(connection, argv, seconds=True, relative=True)


@command("pttl", 2, Flag.READ, (1, 1, 1), group="generic")
def pttl(connection: Connection, argv: list[bytes]) -> Reply:
    """Milliseconds until a key expires; -1 without expiry, -2 without key."""
    return _when(connection, argv, seconds=False, relative=True)


@command("expiretime", 2, Flag.READ, (1, 1, 1), group="generic")
def expiretime(connection: Connection, argv: list[bytes]) -> Reply:
    """Unix time in seconds at which a key expires; -1 without expiry, -2 without key."""
    return _when(connection, argv, seconds=True, relative=False)


@command("pexpiretime", 2, Flag.READ, (1, 1, 1), group="generic")
def pexpiretime(connection: Connection, argv: list[bytes]) -> Reply:
    """Unix time in milliseconds at which a key expires; -1 without expiry, -2 without key."""
    return _when(connection, argv, seconds=False, relative=False)


@command("persist", 2, Flag.WRITE, (1, 1, 1), group="generic")
def persist(connection: Connection, argv: list[bytes]) -> Reply:
    """Take the expiry of a key away."""
    key = canonical(argv[1])

    def keep(entry: Entry | None) -> Reply:
        if entry is None or entry.expires_ms == NEVER_MS:
            return ZERO
        return when(connection.engine.set_expiry(key, NEVER_MS), lambda done: ONE if done else ZERO)

    return change(connection, key, keep)
