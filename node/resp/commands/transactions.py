"""MULTI and EXEC: commands queued by one client, run one after the other with nobody in between.

What must come from disk is fetched before the first command runs, so that the run itself does not pause; only a value
that is too large for memory can still make it wait. There is no WATCH: a cache has nothing to guard with it that leases
do not guard better.

Invariants: a queue is bounded, and so are the replies to its commands; a command that could not be queued spoils the
transaction, as in Redis.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, cast

from stratacache.node.keys import canonical
from stratacache.node.resp.commands.entries import gather
from stratacache.node.resp.dispatch import failed, perform, refuse, settle
from stratacache.node.resp.parser import ARGUMENT_BYTES
from stratacache.node.resp.replies import OK, QUEUED, CommandError, array
from stratacache.node.resp.table import Command, Flag, Later, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection


class Transaction:
    """The commands that one client has queued since MULTI."""

    __slots__ = ("bytes", "commands", "connection", "reply_bytes", "spoiled")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.commands: list[tuple[Command, list[bytes]]] = []
        self.bytes = 0
        self.reply_bytes = 0
        self.spoiled = False

    def __len__(self) -> int:
        return len(self.commands)

    def add(self, found: Command, argv: list[bytes]) -> bytes:
        """Queue a command."""
        config = self.connection.server.config
        size = self.bytes + sum(map(len, argv)) + ARGUMENT_BYTES * len(argv)
        if len(self.commands) >= config.transaction_commands_max or size > config.query_bytes_max:
            limit = f"{config.transaction_commands_max} commands, {config.query_bytes_max} bytes"
            return refuse(self.connection, f"LIMIT a transaction may queue {limit}: split it")
        self.bytes = size
        self.commands.append((found, argv))
        return QUEUED

    def run(self) -> Reply:
        """Fetch what lies on disk or with a former owner, then run all commands."""
        if (waiting := self._arriving()) is not None:
            return Later(waiting, lambda _: self.run())
        engine = self.connection.engine
        raws = {raw for found, argv in self.commands for raw in found.keys(argv)}
        asked = [engine.peek(canonical(raw)) for raw in raws]
        if not any(isinstance(found, Future) for found in asked):
            return self._run_from(0, [])
        fetched = [
            engine.get(canonical(raw)) for raw, found in zip(raws, asked, strict=True) if isinstance(found, Future)
        ]
        return gather(fetched, lambda _: self._run_from(0, []))

    def _arriving(self) -> Future[None] | None:
        """What has just come to this shard with its key, so that nobody gets in between once the commands run."""
        server = self.connection.server
        if server.arrivals is None:
            return None
        keys = [canonical(raw) for found, argv in self.commands for raw in found.keys(argv)]
        if server.forwarder is not None:
            owner = server.forwarder.owner
            keys = [key for key in keys if owner(key) is None]
        return server.arrivals.settle(keys)

    def _run_from(self, start: int, replies: list[Reply]) -> Reply:
        for index in range(start, len(self.commands)):
            reply = self._run_one(*self.commands[index])
            if isinstance(reply, Later) and not reply.applied:
                return self._wait(reply, index, replies)
            self._keep(reply, replies)
        return self._answer(replies)

    def _keep(self, reply: Reply, replies: list[Reply]) -> None:
        """Keep a reply, unless all together are more than a client may leave unread: it will be cut off for that."""
        if isinstance(reply, bytes):
            self.reply_bytes += len(reply)
        replies.append(b"" if self.reply_bytes > self.connection.server.config.output_bytes_max else reply)

    def _answer(self, replies: list[Reply]) -> Reply:
        """The reply to EXEC when everything has run; what must still reach the disk is waited for together."""
        for index, reply in enumerate(replies):
            if isinstance(reply, Later):
                return self._wait_for(reply, index, replies)
        if self.reply_bytes > self.connection.server.config.output_bytes_max:
            self.connection.cut("replies of a transaction over the output limit")
            return b""
        return array(cast("list[bytes]", replies))

    def _wait_for(self, later: Later, index: int, replies: list[Reply]) -> Later:
        def arrived(_: object) -> Reply:
            replies[index] = settle(self.connection, later)
            return self._answer(replies)

        return Later(later.future, arrived, catches=True)

    def _run_one(self, found: Command, argv: list[bytes]) -> Reply:
        try:
            return perform(self.connection, found, argv)
        except Exception as problem:  # noqa: BLE001 (answered, and logged when it is unforeseen)
            return failed(self.connection, problem)

    def _wait(self, later: Later, index: int, replies: list[Reply]) -> Later:
        """Go on behind a command that has to be waited for."""

        def arrived(_: object) -> Reply:
            reply = settle(self.connection, later)
            if isinstance(reply, Later):
                return self._wait(reply, index, replies)
            self._keep(reply, replies)
            return self._run_from(index + 1, replies)

        return Later(later.future, arrived, catches=True)


@command("multi", 1, Flag.NO_MULTI, group="transactions")
def multi(connection: Connection, argv: list[bytes]) -> Reply:
    """Begin to queue commands."""
    if connection.transaction is not None:
        raise CommandError("ERR MULTI calls can not be nested")
    connection.transaction = Transaction(connection)
    connection.refresh_mode()
    return OK


@command("exec", 1, Flag.NO_MULTI, group="transactions")
def exec_(connection: Connection, argv: list[bytes]) -> Reply:
    """Run what was queued."""
    transaction = connection.transaction
    if transaction is None:
        raise CommandError("ERR EXEC without MULTI")
    connection.leave_transaction()
    if transaction.spoiled:
        raise CommandError("EXECABORT Transaction discarded because of previous errors.")
    return transaction.run()


@command("discard", 1, Flag.NO_MULTI, group="transactions")
def discard(connection: Connection, argv: list[bytes]) -> Reply:
    """Forget what was queued."""
    if connection.transaction is None:
        raise CommandError("ERR DISCARD without MULTI")
    connection.leave_transaction()
    return OK
