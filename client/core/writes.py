"""Storing entries: one with all options, or many with the same ones.

Invariants: a put whose outcome is unknown is never repeated by itself (it could undo an invalidation that came after
it); a batch is cut by bytes and by number; what is stored leaves the near cache before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stratacache.client.core.dispatch import ask_owners
from stratacache.client.core.effects import Command, Operation
from stratacache.client.core.request import Payloads
from stratacache.client.core.state import Core
from stratacache.client.view import ShardInfo
from stratacache.node.errors import CacheError

ENTRIES_PER_COMMAND = 256
BYTES_PER_COMMAND = 8 << 20


class PutOnePlan:
    """`SC.PUT` of one entry."""

    read = False
    repeatable = False
    persist = False

    def __init__(self, command: Command) -> None:
        self._command = command
        self.stored = False

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """The one command."""
        return [(indices, self._command)]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:  # noqa: ARG002 - part of Plan
        """+OK, or nil for a refusal."""
        self.stored = reply is not None


class PutManyPlan:
    """`SC.MPUT` of entries by index; `leases` and `ttls_ms` have one for each, or none."""

    read = False
    repeatable = False
    persist = False

    def __init__(
        self,
        keys: Sequence[bytes],
        payloads: Payloads,
        options: Command,
        *,
        ttls_ms: Sequence[int],
        leases: Sequence[bytes],
    ) -> None:
        self._keys = keys
        self._arguments, self._sizes, self._codecs = payloads
        self._each = ((b"LEASES", leases), (b"PXS", ttls_ms))
        self._options = options
        self.bytes = sum(self._sizes)
        self.stored: set[int] = set()
        self.homeless: set[int] = set()
        """Those that no level of their owner has room for; a lease that they came with was good all the same."""

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """Commands of bounded bytes and bounded numbers of entries."""
        if len(indices) <= ENTRIES_PER_COMMAND and self.bytes <= BYTES_PER_COMMAND:
            return [(indices, self._command(indices))]
        parts: list[tuple[list[int], Command]] = []
        run: list[int] = []
        run_bytes = 0
        for index in indices:
            size = self._sizes[index]
            if run and (run_bytes + size > BYTES_PER_COMMAND or len(run) >= ENTRIES_PER_COMMAND):
                parts.append((run, self._command(run)))
                run, run_bytes = [], 0
            run.append(index)
            run_bytes += size
        parts.append((run, self._command(run)))
        return parts

    def _command(self, indices: list[int]) -> Command:
        count = len(indices)
        keys, arguments, codecs = self._keys, self._arguments, self._codecs
        if count < len(keys):
            keys = [keys[index] for index in indices]
            arguments = [arguments[index] for index in indices]
            codecs = bytes([codecs[index] for index in indices])
        command: list[Any] = [b"SC.MPUT", codecs, *[b""] * (2 * count)]
        command[2::2] = keys
        command[3::2] = arguments
        for name, values in self._each:
            if values:
                command += (name, count, *[values[index] for index in indices])
        return (*command, *self._options)

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:  # noqa: ARG002 - part of Plan
        """1 for stored, 0 for a void lease, 2 for what no level has room for (0 from shards of before)."""
        if reply.count(1) == len(indices):
            self.stored.update(indices)
        else:
            self.stored.update(index for index, stored in zip(indices, reply, strict=True) if stored == 1)
            self.homeless.update(index for index, stored in zip(indices, reply, strict=True) if stored == 2)


def put_one(core: Core, key: bytes, payload: Any, size: int, codec: int, options: Command) -> Operation[bool]:
    """Store one entry; False when it was refused. Raises when no owner acknowledged it."""
    plan = PutOnePlan((b"SC.PUT", key, payload, b"CODEC", codec, *options))
    near = core.near
    if near is not None:
        near.own_write((key,))
    try:
        failed = yield from ask_owners(core, (key,), plan, deadline=core.deadline(size))
    finally:
        if near is not None:
            near.own_write((key,))
    if failed:
        raise failed[0]
    core.counters.puts += plan.stored
    core.counters.puts_refused += not plan.stored
    return plan.stored


def put_fill(
    core: Core, key: bytes, payload: Any, size: int, codec: int, options: Command, expires_in_ms: int | None, lease: Any
) -> Operation[bool]:
    """Store what was computed under a lease; False when that was void, True also when no level has room for the value.

    `SC.MPUT` tells the two apart, `SC.PUT` does not. Raises when no owner acknowledged it.
    """
    times = () if expires_in_ms is None else (expires_in_ms,)
    payloads = Payloads((payload,), (size,), bytes((codec,)))
    plan = PutManyPlan((key,), payloads, options, ttls_ms=times, leases=(lease,))
    failed = yield from _put(core, (key,), plan)
    if failed:
        raise failed[0]
    return bool(plan.stored or plan.homeless)


def put_all(
    core: Core,
    keys: Sequence[bytes],
    payloads: Payloads,
    options: Command,
    *,
    ttls_ms: Sequence[int],
    leases: Sequence[bytes] = (),
) -> Operation[tuple[set[int], dict[int, CacheError]]]:
    """Store many entries: indices of those that were acknowledged, errors of those that no shard answered for."""
    plan = PutManyPlan(keys, payloads, options, ttls_ms=ttls_ms, leases=leases)
    failed = yield from _put(core, keys, plan)
    return plan.stored, failed


def _put(core: Core, keys: Sequence[bytes], plan: PutManyPlan) -> Operation[dict[int, CacheError]]:
    near = core.near
    if near is not None:
        near.own_write(keys)
    try:
        failed = yield from ask_owners(core, keys, plan, deadline=core.deadline(plan.bytes))
    finally:
        if near is not None:
            near.own_write(keys)
    core.counters.puts += len(plan.stored)
    core.counters.puts_refused += len(keys) - len(plan.stored) - len(failed)
    return failed
