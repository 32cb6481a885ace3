"""Fill leases on the wire: one caller computes, the others wait on their own connection and hold up nobody else."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from stratacache.node.keys import canonical
from stratacache.node.resp.arguments import SYNTAX, count_of
from stratacache.node.resp.commands.entries import bulk_of, everything_of, gather
from stratacache.node.resp.replies import CommandError, array, bulk, integer
from stratacache.node.resp.table import Flag, Later, Reply, command

if TYPE_CHECKING:
    from stratacache.node.leases import LeaseReply
    from stratacache.node.resp.connection import Connection

HOLD_MS_MAX: Final = 24 * 3600 * 1000
WAIT_MS_MAX: Final = 3600 * 1000
HELD_MAX: Final = 4096


def _reply(connection: Connection, key: bytes, answer: LeaseReply, seq: int | None = None) -> bytes:
    """With `seq` a hit is answered as SC.GETX does."""
    state = bulk(answer.state.value.encode())
    if answer.token:
        _hold(connection, answer.token, key)
    if answer.entry is not None:
        if seq is not None:
            return array([state, everything_of(connection, answer.entry, seq)])
        return array([state, integer(answer.entry.codec), bulk_of(answer.entry)])
    return array([state, bulk(answer.token)]) if answer.token else array([state])


def _hold(connection: Connection, token: bytes, key: bytes) -> None:
    """Remember a lease, so that it ends with its connection. Past the bound the oldest runs its whole time."""
    held = connection.leases
    if len(held) >= HELD_MAX:
        del held[next(iter(held))]
    held[token] = key


@command("sc.lease", -4, Flag.WRITE, (1, 1, 1), group="native")
def sc_lease(connection: Connection, argv: list[bytes]) -> Reply:
    """Get a value, or the lease to compute it, or wait for who holds the lease; with REFRESH not the value."""
    return _lease(connection, argv, None)


@command("sc.leasex", -4, Flag.WRITE, (1, 1, 1), group="native")
def sc_leasex(connection: Connection, argv: list[bytes]) -> Reply:
    """As SC.LEASE; a value comes with everything that is known about it."""
    return _lease(connection, argv, connection.server.watchers.seq)


def _lease(connection: Connection, argv: list[bytes], seq: int | None) -> Reply:
    refresh = len(argv) == 5 and argv[4].upper() == b"REFRESH"
    if len(argv) > 4 and not refresh:
        raise CommandError(SYNTAX)
    wait_ms = count_of(argv[2], "wait_ms", 0, WAIT_MS_MAX)
    hold_ms = count_of(argv[3], "hold_ms", 1, HOLD_MS_MAX)
    key = canonical(argv[1])
    answer = connection.engine.lease(key, wait_ms, hold_ms, refresh=refresh)
    if isinstance(answer, Future):
        return Later(answer, lambda given: _reply(connection, key, given, seq), cancel=True)
    return _reply(connection, key, answer, seq)


@command("sc.mlease", -3, Flag.WRITE, (2, -1, 1), group="native")
def sc_mlease(connection: Connection, argv: list[bytes]) -> Reply:
    """Ask for many values or their leases; never waits for who holds one."""
    return _leases(connection, argv, None)


@command("sc.mleasex", -3, Flag.WRITE, (2, -1, 1), group="native")
def sc_mleasex(connection: Connection, argv: list[bytes]) -> Reply:
    """As SC.MLEASE; values come with everything that is known about them."""
    return _leases(connection, argv, connection.server.watchers.seq)


def _leases(connection: Connection, argv: list[bytes], seq: int | None) -> Reply:
    hold_ms = count_of(argv[1], "hold_ms", 1, HOLD_MS_MAX)
    engine = connection.engine
    keys = [canonical(raw) for raw in argv[2:]]

    def reply(given: list[LeaseReply]) -> bytes:
        return array([_reply(connection, key, answer, seq) for key, answer in zip(keys, given, strict=True)])

    return gather([engine.lease(key, 0, hold_ms) for key in keys], reply)


@command("sc.release", -3, Flag.WRITE, (1, -1, 2), group="native")
def sc_release(connection: Connection, argv: list[bytes]) -> Reply:
    """Give leases back unused."""
    if len(argv) % 2 == 0:
        raise CommandError("ERR wrong number of arguments for 'sc.release' command")
    engine = connection.engine
    pairs = [(argv[index], argv[index + 1]) for index in range(1, len(argv), 2)]
    for _, token in pairs:
        connection.leases.pop(token, None)
    return integer(sum([engine.release_lease(canonical(raw), token) for raw, token in pairs]))
