"""What the blocking shells have in common: running operations on the calling thread.

Invariants: what an effect raises is raised inside the operation, which decides; background operations run on daemon
threads, so that they never keep a process alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from types import CoroutineType
from typing import Any, TypeVar

from stratacache.client.core.counters import LOGGER
from stratacache.client.core.effects import (
    Command,
    Compute,
    Discover,
    Exchange,
    Join,
    Operation,
    ShardFailure,
    Sleep,
    Spawn,
)
from stratacache.client.view import View
from stratacache.node.errors import UsageError

T = TypeVar("T")


CLOSED = "this client is closed; connect() again"


class Slow(Enum):
    """What `ask_one` answers when the operation has to be run in full."""

    SLOW = 0


SLOW = Slow.SLOW


class Runner:
    """Runs operations; a subclass carries out the exchanges."""

    def __init__(self, discover: Callable[[float], View | None]) -> None:
        self._discover = discover

    def ask_one(self, key: bytes, command: Command, *, repeatable: bool = True) -> Any:  # noqa: ARG002 - what a subclass may do
        """The reply to a command at the key's only owner, when nothing is in the way; else SLOW: run the operation."""
        return SLOW

    def ask_many(self, keys: list[Any], prefix: bytes) -> Any:  # noqa: ARG002 - what a subclass may do
        """The reply to an SC.MGET, when one shard owns all keys and nothing is in the way; else SLOW."""
        return SLOW

    def exchange(self, exchange: Exchange) -> list[list[Any] | ShardFailure]:
        """Send every call, then collect."""
        raise NotImplementedError

    def run(self, operation: Operation[T]) -> T:
        """Carry an operation out to its result."""
        try:
            effect = operation.send(None)
            while True:
                try:
                    outcome = self._perform(effect)
                except BaseException as error:  # noqa: BLE001 - the operation decides
                    effect = operation.throw(error)
                else:
                    effect = operation.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _perform(self, effect: Any) -> Any:
        kind = type(effect)
        if kind is Exchange:
            return self.exchange(effect)
        if kind is Compute:
            begun = time.perf_counter()
            result = effect.function(*effect.arguments)
            if result.__class__ is CoroutineType:
                result.close()
                name = getattr(effect.function, "__qualname__", repr(effect.function))
                raise UsageError(f"{name} returned a coroutine: use a client of connect_async(), or a plain function")
            return result, time.perf_counter() - begun
        if kind is Sleep:
            time.sleep(effect.seconds)
            return None
        if kind is Join:
            return effect.flight.wait(effect.deadline - time.monotonic())
        if kind is Discover:
            return self._discover(effect.timeout_s)
        if kind is Spawn:
            name = "stratacache-background"
            threading.Thread(target=self._background, args=(effect.operation,), name=name, daemon=True).start()
            return None
        raise TypeError(f"{effect!r} is no effect")

    def _background(self, operation: Operation[Any]) -> None:
        try:
            self.run(operation)
        except Exception:  # noqa: BLE001 - nobody else would hear of it
            LOGGER.exception("a background operation failed")
