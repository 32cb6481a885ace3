"""Reading entries: one key, many keys, and what is known of an entry without its value.

Invariants: a missing key and a key whose shard gave no answer are told apart (`failed`), because only the first is a
miss that means something; an undecodable payload is a miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stratacache.client.codec import RAW
from stratacache.client.core.dispatch import ask_owners
from stratacache.client.core.effects import Command, Operation
from stratacache.client.core.state import Core
from stratacache.client.view import ShardInfo
from stratacache.node.errors import CacheError
from stratacache.node.types import MISS

KEYS_PER_COMMAND = 512


def slices(indices: list[int], length: int = KEYS_PER_COMMAND) -> list[list[int]]:
    """Cut a list into runs, so that no command is of unbounded size."""
    if len(indices) <= length:
        return [indices]
    return [indices[start : start + length] for start in range(0, len(indices), length)]


class GetPlan:
    """Fetch values. `values` holds what was found, decoded, in the order of the keys, and MISS for the others."""

    read = True
    repeatable = True
    persist = False

    def __init__(self, core: Core, keys: Sequence[bytes]) -> None:
        self._core = core
        self._keys = keys
        self.values: list[Any] = [MISS] * len(keys)
        self.missed = len(keys)

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """`SC.GET` for one key, `SC.MGET` for more."""
        keys = self._keys
        if len(indices) == 1:
            return [(indices, (b"SC.GET", keys[indices[0]]))]
        if len(indices) == len(keys) <= KEYS_PER_COMMAND:
            return [(indices, (b"SC.MGET", *keys))]
        return [(part, (b"SC.MGET", *[keys[index] for index in part])) for part in slices(indices)]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:  # noqa: ARG002 - part of Plan
        """Decode what was found."""
        if reply is None:
            return
        if len(indices) == 1:
            self._take(indices[0], reply[0], reply[1])
            return
        self.take_many(indices, reply)

    def take_many(self, indices: Sequence[int], reply: list[Any]) -> None:
        """Decode what was found by one SC.MGET; the list is ours."""
        codecs = reply.pop(0)
        if len(reply) == len(self.values) and codecs.count(RAW) == len(codecs) and all(reply):
            self.values = reply  # all there, and none to be decoded: as a batch of bytes should be
            self.missed = 0
            return
        for index, codec, payload in zip(indices, codecs, reply, strict=True):
            if payload is not None:
                self._take(index, codec, payload)

    def _take(self, index: int, codec: int, payload: Any) -> None:
        value = self.values[index] = self._core.decode(codec, payload)
        self.missed -= value is not MISS


class EachPlan:
    """One command with one reply for each key: EXISTS, PTTL, SC.EXPIRE."""

    persist = False
    repeatable = True

    def __init__(self, keys: Sequence[bytes], command: bytes, *arguments: Any, read: bool = True) -> None:
        self._keys = keys
        self._command = command
        self._arguments = arguments
        self.read = read
        self.replies: dict[int, Any] = {}

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """One command for each key."""
        return [([index], (self._command, self._keys[index], *self._arguments)) for index in indices]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:  # noqa: ARG002 - part of Plan
        """Keep the reply."""
        self.replies[indices[0]] = reply


def fetch(core: Core, keys: Sequence[bytes]) -> Operation[tuple[list[Any], dict[int, CacheError]]]:
    """A value, or MISS, for each key, and by index the errors of those that could not be asked for."""
    near = core.near
    if near is not None:
        return (yield from near.fetch(core, keys))
    plan = GetPlan(core, keys)
    failed = yield from ask_owners(core, keys, plan, deadline=core.deadline())
    core.counters.hits += len(keys) - plan.missed
    core.counters.misses += plan.missed
    return plan.values, failed


def ask_one(core: Core, key: bytes, plan: EachPlan) -> Operation[Any]:
    """The reply for one key; raises when its shard gave none."""
    failed = yield from ask_owners(core, (key,), plan, deadline=core.deadline())
    if failed:
        raise failed[0]
    return plan.replies[0]
