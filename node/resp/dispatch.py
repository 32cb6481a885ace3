"""From a command's words to its reply: every check that stands before a handler, and every error text behind it.

The order of the checks is Redis's: is there such a command, does the argument count fit, may this client, is it
queued by MULTI, may this shard serve now, whose are the keys.

Invariant: `run` and `settle` never raise; an unforeseen error is logged and answered, and the connection lives on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from stratacache.node.errors import (
    CacheError,
    CorruptionError,
    InvalidationIncompleteError,
    LimitError,
    UnavailableError,
    UsageError,
)
from stratacache.node.keys import canonical
from stratacache.node.resp import proxy
from stratacache.node.resp.arguments import shown
from stratacache.node.resp.replies import OK, CommandError, error
from stratacache.node.resp.table import Access, Command, Later, Reply, find

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection
    from stratacache.node.resp.routing import Arrivals

log = logging.getLogger(__name__)

_FULL: Final = Access.FULL  # an attribute of an enum is slow to look up

WHILE_SUBSCRIBED: Final = frozenset({"subscribe", "unsubscribe", "ping", "quit", "reset"})
"""What a RESP2 client may do while messages may come at any time."""

HTTP_WORDS: Final = frozenset({b"POST", b"HOST:"})
"""What a browser sends before it gets to what a web page would have executed here; Redis knows it by these, too."""


def run(connection: Connection, argv: list[bytes]) -> Reply:
    """Execute one command; the reply may be an error."""
    try:
        return _run(connection, argv)
    except Exception as problem:  # noqa: BLE001 (answered, and logged when it is unforeseen)
        return failed(connection, problem)


def settle(connection: Connection, later: Later) -> Reply:
    """The reply of a command whose future is done."""
    try:
        return later.then(later.future if later.catches else later.future.result())
    except Exception as problem:  # noqa: BLE001
        return failed(connection, problem)


def refuse(connection: Connection, text: str) -> bytes:
    """An error reply for a command that was not run; spoils an open transaction."""
    connection.server.count_error(text)
    if connection.transaction is not None:
        connection.transaction.spoiled = True
    return error(text)


def _run(connection: Connection, argv: list[bytes]) -> Reply:
    found = find(argv[0], argv[1] if len(argv) > 1 else None)
    if found is None:
        if argv[0].upper() in HTTP_WORDS:
            return connection.server.refuse_http(connection)
        return refuse(connection, _unknown(argv))
    if not found.least <= len(argv) <= found.most:
        return _reject(connection, found, f"ERR wrong number of arguments for '{found.name}' command")
    access = connection.access
    if access is not _FULL and found.access & ~access:
        if access is Access.NONE:
            return _reject(connection, found, "NOAUTH Authentication required.")
        return refuse(connection, f"NOPERM this token may only read: '{found.name}' is not allowed")
    if connection.channels and connection.resp == 2 and found.name not in WHILE_SUBSCRIBED:
        allowed = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        return _reject(connection, found, f"ERR Can't execute '{found.name}': {allowed}")
    if connection.transaction is not None and found.queues:
        return connection.transaction.add(found, argv)
    connection.last_command = found.name
    return perform(connection, found, argv)


def _reject(connection: Connection, found: Command, text: str) -> bytes:
    """An error reply for a command that exists; an EXEC that is refused ends its transaction."""
    if found.name != "exec":
        return refuse(connection, text)
    connection.leave_transaction()
    return refuse(connection, f"EXECABORT Transaction discarded because of: {text.removeprefix('ERR ')}")


def perform(connection: Connection, found: Command, argv: list[bytes]) -> Reply:
    """Run a checked command here, or have its owner run it."""
    server = connection.server
    if found.touches_data:
        if not server.may_serve() or (server.hold_invalidations and found.invalidates):
            return refuse(connection, f"SUSPENDED {server.epoch}")
        if server.forwarder is not None:
            elsewhere = proxy.route(connection, server.forwarder, found, argv)
            if elsewhere is not None:
                return (
                    elsewhere if connection.tracking is None else _tracked_elsewhere(connection, found, argv, elsewhere)
                )
        if server.arrivals is not None and (waiting := settle_keys(server.arrivals, found, argv)) is not None:
            return Later(waiting, lambda _: perform(connection, found, argv))  # all may be different by then
    reply = found.handler(connection, argv) if connection.tracking is None else _run_tracked(connection, found, argv)
    if found.invalidates and isinstance(reply, Later):
        return _under_one_view(connection, reply, connection.server.epoch)
    return reply


BLIND: Final = frozenset({"set", "setex", "psetex", "mset", "sc.put", "sc.mput"})
"""Commands that put whatever was there before, unless they have a condition or give the old value."""
_SEES: Final = frozenset({b"NX", b"XX", b"GET", b"KEEPTTL"})


def settle_keys(arrivals: Arrivals, found: Command, argv: list[bytes]) -> Future[None] | None:
    """Fetch what a command would see of keys that have just come to this shard; None when there is no waiting."""
    keys = [canonical(raw) for raw in found.keys(argv)]
    if found.name in BLIND and not any(len(word) < 8 and word.upper() in _SEES for word in argv[3:]):
        for key in keys:
            arrivals.touch(key)
        return None
    return arrivals.settle(keys) if keys else None


def _under_one_view(connection: Connection, later: Later, epoch: int) -> Later:
    """Refuse an invalidation that took a while if a view change began meanwhile.

    What suspended shards owe was handed over without it then, so that nobody may count on it: it is to be repeated.
    """
    server = connection.server

    def reply(result: Any) -> Reply:
        answer = later.then(result)
        if isinstance(answer, Later):
            return _under_one_view(connection, answer, epoch)
        if server.hold_invalidations or server.epoch != epoch:
            raise CommandError(f"SUSPENDED {server.epoch}")
        return answer

    return Later(later.future, reply, cancel=later.cancel)


def _run_tracked(connection: Connection, found: Command, argv: list[bytes]) -> Reply:
    """Run a command of a client that is told of changes to what it reads."""
    server = connection.server
    state = connection.tracking
    keys = [canonical(raw) for raw in found.keys(argv)] if found.reads else []
    server.tracking.remember(connection, keys)
    server.current = connection
    try:
        reply = found.handler(connection, argv)
        if keys:
            if isinstance(reply, Later):
                return server.tracking.report_behind(connection, reply, keys)
            server.tracking.report_unseen(connection, keys)
        return reply
    finally:
        server.current = None
        if state is not None and found.name != "client|caching":
            state.caching = None


def _tracked_elsewhere(connection: Connection, found: Command, argv: list[bytes], reply: Reply) -> Reply:
    """Have a client that keeps what it reads give up at once what another shard has answered: nobody here hears of
    changes there."""
    state = connection.tracking
    try:
        if not found.reads or not isinstance(reply, Later):
            return reply
        keys = [canonical(raw) for raw in found.keys(argv)]
        return connection.server.tracking.report_behind(connection, reply, keys, here=False)
    finally:
        if state is not None:
            state.caching = None


def failed(connection: Connection, problem: BaseException) -> bytes:
    """The error reply of a command that raised."""
    text = error_text(problem)
    connection.server.count_error(text)
    return error(text)


def error_text(problem: BaseException) -> str:
    """The error reply for an exception, without its dash."""
    if isinstance(problem, CommandError):
        return str(problem)
    if isinstance(problem, LimitError):
        return f"LIMIT {problem}"
    if isinstance(problem, UsageError):
        return f"ERR {problem}"
    if isinstance(problem, InvalidationIncompleteError):
        return f"INCOMPLETE {' '.join(problem.missing)}"
    if isinstance(problem, UnavailableError):
        return f"UNAVAILABLE {problem}"
    if isinstance(problem, CorruptionError | CacheError):
        return f"ERR {problem}"
    log.error("a command failed in an unforeseen way", exc_info=problem)
    return "ERR internal error, see the log of the node"


def _unknown(argv: list[bytes]) -> str:
    name = shown(argv[0], 128)
    parent = find(argv[0])
    if parent is not None and len(argv) > 1:
        return f"ERR unknown subcommand '{shown(argv[1], 128)}'. Try {name.upper()} HELP."
    words = b""
    for argument in argv[1:]:
        if len(words) >= 128:
            break
        words += b"'%b' " % argument.partition(b"\0")[0][: 128 - len(words)]
    return f"ERR unknown command '{name}', with args beginning with: {shown(words)}"


def stored(done: object, reply: bytes = OK) -> Reply:
    """The reply of a put: at once, or when the disk has it."""
    if done is True:
        return reply
    if isinstance(done, Future):
        return Later(done, lambda result: stored(result, reply), applied=True)
    raise CommandError("OOM the value is larger than every level of this node can hold")


def when(result: Any, then: Callable[[Any], Reply], *, applied: bool = False) -> Reply:
    """Go on with what the engine gave: at once, or when its future is done. `applied`: as in Later."""
    if isinstance(result, Future):
        return Later(result, then, applied=applied)
    return then(result)
