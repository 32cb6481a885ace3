"""A client's side of the network: pooled connections and the effects of the client's operations, seeded.

It mirrors `client/transport`: what is greeted, when a call counts as sent, which connections are closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hiredis import Reader

from stratacache.client.core.effects import (
    Call,
    Compute,
    Discover,
    Exchange,
    Join,
    Operation,
    ShardFailure,
    Sleep,
    Spawn,
)
from stratacache.client.core.flight import Flight
from stratacache.client.options import ClientOptions
from stratacache.client.transport.wire import check_greeting, greeting, pack
from stratacache.client.view import ShardInfo
from stratacache.node.errors import UnavailableError
from tests.simulation.network import Pipe
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.cluster import SimCluster

_NOTHING = object()
SYN_AGAIN_MS = 1000.0


class Socket:
    """One connection of a client to whoever listens at a shard's address."""

    nothing = _NOTHING

    def __init__(self, client: Process, cluster: SimCluster, shard: ShardInfo) -> None:
        self.client = client
        self.cluster = cluster
        self.shard = shard
        self.closed = False
        self.used_ms = 0.0
        self.refused = False
        self._requests: Pipe | None = None
        self._reader = Reader(notEnoughData=_NOTHING)
        self._replies: list[Any] = []
        self._wanted = 0
        self._done: Callable[[list[Any] | str], None] = lambda _: None

    def open(self, done: Callable[[list[Any] | str], None]) -> None:
        """Connect and greet; `done` gets the greeting's replies, or why there are none."""
        self._done = done
        self._syn()

    def _syn(self) -> None:
        if self.closed:
            return
        network = self.cluster.network
        target = self.cluster.machines.get(self.shard.host)
        cuts = network.cuts
        here = self.client.machine.name
        if target is None or (here, target.name) in cuts or (target.name, here) in cuts:
            self.client.after(SYN_AGAIN_MS, self._syn)
            return

        def arrive() -> None:
            process = self.cluster.listener(self.shard.host, self.shard.port)
            if process is None or not process.alive:
                self.client.after(1, lambda: self._end("nobody listens"))
                return
            end = process.accept(self.client, self._arrive)
            self._requests = end.requests
            commands = greeting(None)
            self.client.deliver(lambda: self.send(pack(commands), len(commands), self._done))

        network.world.after(network.world.random.uniform(0.1, 3), arrive)

    def send(self, buffers: list[Any], count: int, done: Callable[[list[Any] | str], None]) -> None:
        """Send commands; `done` gets their replies, or why there are none."""
        self._wanted, self._done = count, done
        if self.closed or self._requests is None:
            self._end("the connection is closed")
            return
        self._requests.send(b"".join(buffers))

    def _arrive(self, chunk: bytes | None) -> None:
        if self.closed:
            return
        if chunk is None:
            self._end("the connection was closed")
            return
        self._reader.feed(chunk)
        while (reply := self._reader.gets()) is not _NOTHING:
            self._replies.append(reply)
        if self._wanted and len(self._replies) >= self._wanted:
            replies, self._replies, self._wanted = self._replies, [], 0
            self._done(replies)

    def _end(self, reason: str) -> None:
        self.close()
        done, self._done = self._done, lambda _: None
        done(reason)

    def close(self) -> None:
        """Close our end; what was sent may still arrive."""
        if not self.closed:
            self.closed = True
            if self._requests is not None:
                self._requests.send(None)


class Shell:
    """Runs operations of a client process: the simulated counterpart of the blocking and asyncio shells."""

    def __init__(self, client: Process, cluster: SimCluster, options: ClientOptions) -> None:
        self.client = client
        self.cluster = cluster
        self.options = options
        self._pools: dict[str, tuple[ShardInfo, list[Socket]]] = {}
        self._sockets: dict[Socket, None] = {}
        self._operations: dict[Operation[Any], None] = {}
        client.on_death.append(self._close_all)

    def _close_all(self) -> None:
        for socket in list(self._sockets):
            socket.close()

    def monotonic(self) -> float:
        """Seconds on the client's machine."""
        return self.client.machine.now_ms() / 1000

    def run(self, operation: Operation[Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Carry an operation out; `done` gets its result or what it raised."""
        self._operations[operation] = None

        def ended(result: Any, error: BaseException | None) -> None:
            del self._operations[operation]
            done(result, error)

        self._step(operation, None, None, ended)

    def abandon(self) -> None:
        """End what is still under way; an operation that wants to give its lease back first is not listened to."""
        for operation in self._operations:
            closed = False
            while not closed:
                try:
                    operation.close()
                    closed = True
                except RuntimeError:  # it yielded once more
                    continue
        self._operations.clear()

    def _step(
        self,
        operation: Operation[Any],
        outcome: Any,
        error: BaseException | None,
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        try:
            effect = operation.throw(error) if error is not None else operation.send(outcome)
        except StopIteration as stop:
            done(stop.value, None)
            return
        except Exception as raised:
            done(None, raised)
            return

        def go_on(outcome: Any, error: BaseException | None = None) -> None:
            self._step(operation, outcome, error, done)

        self._perform(effect, go_on)

    def _perform(self, effect: Any, go_on: Callable[..., None]) -> None:
        match effect:
            case Exchange():
                self._exchange(effect, go_on)
            case Sleep(seconds=seconds):
                self.client.after(seconds * 1000, lambda: go_on(None))
            case Compute(function=function, arguments=arguments):
                result, seconds = function(*arguments)
                self.client.after(seconds * 1000, lambda: go_on((result, seconds)))
            case Discover(timeout_s=timeout_s):
                self._discover(timeout_s, go_on)
            case Spawn(operation=operation):
                self.run(operation, lambda _, __: None)
                self.client.after(0, lambda: go_on(None))
            case Join(flight=flight, deadline=deadline):
                self._join(flight, (deadline - self.monotonic()) * 1000, go_on)
            case _:
                raise TypeError(f"{effect!r} is no effect")

    def _join(self, flight: Flight, wait_ms: float, go_on: Callable[..., None]) -> None:
        waiting = True

        def end(landed: bool) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                timer.cancel()
                go_on(landed)

        timer = self.client.after(wait_ms, lambda: end(False))
        flight.when_landed(lambda: end(True))

    def _discover(self, timeout_s: float, go_on: Callable[..., None]) -> None:
        """As cluster/discovery.py: a view, or UnavailableError."""

        def answered(view: Any) -> None:
            go_on(view, None if view is not None else UnavailableError("the coordinator can't be asked"))

        coordinator = self.cluster.control.find_coordinator(self.client)
        if coordinator is None:
            self.client.after(100, lambda: answered(None))
            return
        self.cluster.network.call(
            self.client, coordinator, lambda reply: reply(coordinator.view()), answered, timeout_ms=timeout_s * 1000
        )

    # -------------------------------------------------------------- exchanges

    def _exchange(self, exchange: Exchange, go_on: Callable[..., None]) -> None:
        outcomes: list[Any] = [None] * len(exchange.calls)
        left = len(exchange.calls)
        if not left:
            self.client.after(0, lambda: go_on([]))
            return

        def ended(at: int, outcome: Any) -> None:
            nonlocal left
            outcomes[at] = outcome
            left -= 1
            if not left:
                go_on(outcomes)

        for at, call in enumerate(exchange.calls):
            _Flying(self, call, exchange.deadline, lambda outcome, at=at: ended(at, outcome))  # type: ignore[misc]

    def take(self, shard: ShardInfo, *, repeatable: bool) -> Socket | None:
        """An idle connection of this incarnation's pool."""
        known, idle = self._pools.get(shard.id, (None, []))
        if known != shard:
            for socket in idle:
                socket.close()
            self._pools[shard.id] = (shard, [])
            return None
        while idle:
            socket = idle.pop()
            if socket.closed and (not repeatable and self.monotonic() * 1000 - socket.used_ms > 1000):
                continue
            return socket
        return None

    def give(self, socket: Socket) -> None:
        """Return a connection in good order."""
        known, idle = self._pools.get(socket.shard.id, (None, []))
        if known != socket.shard:
            socket.close()
            return
        socket.used_ms = self.monotonic() * 1000
        idle.append(socket)

    def drop_idle(self, shard: ShardInfo) -> None:
        """A connection failed: the others lead to the same process."""
        known, idle = self._pools.get(shard.id, (None, []))
        if known == shard:
            for socket in idle:
                socket.close()
            idle.clear()

    def new_socket(self, shard: ShardInfo) -> Socket:
        """A connection to be opened."""
        socket = Socket(self.client, self.cluster, shard)
        self._sockets[socket] = None
        return socket


class _Flying:
    """One call of an exchange on its way."""

    def __init__(self, shell: Shell, call: Call, deadline: float, done: Callable[[Any], None]) -> None:
        self._shell = shell
        self._call = call
        self._done = done
        self._sent = False
        self._ended = False
        left_ms = max(1.0, (deadline - shell.monotonic()) * 1000)
        self._timer = shell.client.after(left_ms, self._late)
        socket = shell.take(call.shard, repeatable=call.repeatable)
        self._socket = socket or shell.new_socket(call.shard)
        if socket is not None:
            self._send()
        else:
            connect_ms = min(left_ms, shell.options.connect_deadline_s * 1000)
            self._connecting = shell.client.after(connect_ms, self._late)
            self._socket.open(self._greeted)

    def _greeted(self, replies: list[Any] | str) -> None:
        self._connecting.cancel()
        if self._ended:
            return
        if isinstance(replies, str):
            self._fail(replies)
            return
        wrong = check_greeting(replies, self._call.shard, exact=False)
        if wrong is not None:
            self._fail(str(wrong))
        else:
            self._send()

    def _send(self) -> None:
        self._sent = True
        self._socket.send(pack(self._call.commands), len(self._call.commands), self._answered)

    def _answered(self, replies: list[Any] | str) -> None:
        if self._ended:
            return
        if isinstance(replies, str):
            self._shell.drop_idle(self._call.shard)
            self._fail(replies)
            return
        self._end(replies)
        self._shell.give(self._socket)

    def _late(self) -> None:
        if not self._ended:
            self._fail("no answer in time", timed_out=True)

    def _fail(self, reason: str, *, timed_out: bool = False) -> None:
        self._socket.close()
        self._end(ShardFailure(self._call.shard.id, reason, sent=self._sent, timed_out=timed_out))

    def _end(self, outcome: Any) -> None:
        if not self._ended:
            self._ended = True
            self._timer.cancel()
            self._shell.client.after(0, lambda: self._done(outcome))
