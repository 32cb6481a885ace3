"""Fill leases on the wire: one caller computes, the others wait on their own connection and hold up nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stratacache.node.keys import canonical
from stratacache.node.resp.commands.arguments import count_of
from stratacache.node.resp.commands.entries import bulk_of, gather
from stratacache.node.resp.dispatch import when
from stratacache.node.resp.replies import CommandError, array, bulk, integer
from stratacache.node.resp.table import Flag, Reply, command

if TYPE_CHECKING:
    from stratacache.node.leases import LeaseReply
    from stratacache.node.resp.connection import Connection

HOLD_MS_MAX: Final = 24 * 3600 * 1000
WAIT_MS_MAX: Final = 3600 * 1000


def _reply(answer: LeaseReply) -> bytes:
    state = bulk(answer.state.value.encode())
    if answer.entry is not None:
        return array([state, integer(answer.entry.codec), bulk_of(answer.entry)])
    return array([state, bulk(answer.token)]) if answer.token else array([state])


@command("sc.lease", 4, Flag.WRITE, (1, 1, 1), group="native")
def sc_lease(connection: Connection, argv: list[bytes]) -> Reply:
    """Get a value, or the lease to compute it, or wait for who holds the lease."""
    wait_ms = count_of(argv[2], "wait_ms", 0, WAIT_MS_MAX)
    hold_ms = count_of(argv[3], "hold_ms", 1, HOLD_MS_MAX)
    return when(connection.engine.lease(canonical(argv[1]), wait_ms, hold_ms), _reply)


@command("sc.mlease", -3, Flag.WRITE, (2, -1, 1), group="native")
def sc_mlease(connection: Connection, argv: list[bytes]) -> Reply:
    """Ask for many values or their leases; never waits for who holds one."""
    hold_ms = count_of(argv[1], "hold_ms", 1, HOLD_MS_MAX)
    engine = connection.engine
    answers = [engine.lease(canonical(raw), 0, hold_ms) for raw in argv[2:]]
    return gather(answers, lambda given: array([_reply(answer) for answer in given]))


@command("sc.release", -3, Flag.WRITE, (1, -1, 2), group="native")
def sc_release(connection: Connection, argv: list[bytes]) -> Reply:
    """Give leases back unused."""
    if len(argv) % 2 == 0:
        raise CommandError("ERR wrong number of arguments for 'sc.release' command")
    engine = connection.engine
    pairs = [(argv[index], argv[index + 1]) for index in range(1, len(argv), 2)]
    return integer(sum([engine.release_lease(canonical(raw), token) for raw, token in pairs]))
