"""Fill leases as the client asks for them: a hit, a token, or neither, in one round trip whether it hits or misses.

Invariants: a miss costs one round trip before its computation and one after it; a hit that a near cache may keep
passes its gates like any other read; an undecodable payload is computed anew by its reader and left as it is; leases
that come for a caller who was stopped while it asked are given back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stratacache.client.core.circuit import backoff_s
from stratacache.client.core.dispatch import ask_owners
from stratacache.client.core.effects import Command, Operation, Sleep, Spawn
from stratacache.client.core.reads import fetch, slices
from stratacache.client.core.state import Core
from stratacache.client.view import ShardInfo
from stratacache.node.errors import CacheError
from stratacache.node.types import MISS

if TYPE_CHECKING:
    from stratacache.client.core.near import Ticket

WAIT_SLICE_S: Final = 5.0  # one SC.LEASE waits this long at most: a shard that dies meanwhile is noticed in time
HIT: Final = "HIT"
LEASE: Final = "LEASE"
BUSY: Final = "BUSY"
TIMEOUT: Final = "TIMEOUT"
UNREADABLE: Final = "UNREADABLE"

Answer: TypeAlias = tuple[str, Any]
"""One of these words, with the value of a hit or the token of a lease."""


class _Reader:
    """What the answers mean, for one request: with a near cache they bring all that its gates need to know."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._near = core.near
        self._ticket: Ticket | None = None
        if self._near is not None:
            self._near.listen()
            self._ticket = self._near.ticket()

    def command(self, name: bytes) -> bytes:
        """The command of this name, in the form whose answers this reads."""
        return name if self._near is None else name + b"X"

    def read(self, key: bytes, reply: Sequence[Any], shard: ShardInfo) -> Answer:
        """The answer in a reply."""
        word = bytes(reply[0]).decode()
        if word != HIT:
            return word, reply[1] if len(reply) > 1 else None
        found = reply[1:] if self._near is None else reply[1]
        value = self._core.decode(int(found[0]), found[1])
        if value is MISS:
            return UNREADABLE, None
        self._core.counters.hits += 1
        if self._near is not None and self._ticket is not None:
            self._near.admit(key, found, value, shard.id, self._ticket)
        return HIT, value


LEASING: Final = {b"SC.LEASE": 1, b"SC.LEASEX": 1, b"SC.MLEASE": 2, b"SC.MLEASEX": 2}
"""The commands that take leases, and where the first of their keys stands."""


def unclaimed(commands: Sequence[Command], replies: Sequence[Any]) -> list[tuple[bytes, Any]]:
    """The leases in the replies to some commands, for which nobody waits any more."""
    held: list[tuple[bytes, Any]] = []
    for command, reply in zip(commands, replies, strict=False):
        at = LEASING.get(command[0])
        if at is None or not isinstance(reply, list):
            continue
        for key, answer in zip(command[at:], reply, strict=False) if at == 2 else ((command[at], reply),):
            if isinstance(answer, list) and len(answer) == 2 and answer[0] == LEASE.encode():
                held.append((key, answer[1]))
    return held


class _LeasePlan:
    """`SC.LEASE` for one key."""

    read = False
    repeatable = True
    persist = False

    def __init__(self, core: Core, key: bytes, wait_s: float, *, refresh: bool) -> None:
        self._reader = _Reader(core)
        self._key = key
        word = self._reader.command(b"SC.LEASE")
        command: Command = (word, key, round(wait_s * 1000), round(core.options.lease_hold_s * 1000))
        self._command = (*command, b"REFRESH") if refresh else command
        self.answer: Answer = (TIMEOUT, None)

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """The one command."""
        return [(indices, self._command)]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:  # noqa: ARG002 - part of Plan
        """HIT, LEASE or TIMEOUT."""
        self.answer = self._reader.read(self._key, reply, shard)

    def held(self) -> list[tuple[bytes, Any]]:
        """The lease, if it was given."""
        return [(self._key, self.answer[1])] if self.answer[0] == LEASE else []


class _LeasesPlan:
    """`SC.MLEASE` for many keys: never waits."""

    read = False
    repeatable = True
    persist = False

    def __init__(self, core: Core, keys: Sequence[bytes]) -> None:
        self._reader = _Reader(core)
        self._keys = keys
        self._head = (self._reader.command(b"SC.MLEASE"), round(core.options.lease_hold_s * 1000))
        self.answers: dict[int, Answer] = {}

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """Commands for up to 512 keys."""
        return [(part, (*self._head, *[self._keys[index] for index in part])) for part in slices(indices)]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:
        """One list for each key."""
        for index, each in zip(indices, reply, strict=True):
            self.answers[index] = self._reader.read(self._keys[index], each, shard)

    def held(self) -> list[tuple[bytes, Any]]:
        """The leases that were given."""
        return [(self._keys[index], found) for index, (word, found) in self.answers.items() if word == LEASE]


class _TakePlan:
    """`SC.LEASE` for many keys, whether they are cached or not: never waits."""

    read = False
    repeatable = True
    persist = False

    def __init__(self, core: Core, keys: Sequence[bytes]) -> None:
        self._keys = keys
        self._tail = (0, round(core.options.lease_hold_s * 1000), b"REFRESH")
        self.tokens: dict[int, Any] = {}

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """One command for each key."""
        return [([index], (b"SC.LEASE", self._keys[index], *self._tail)) for index in indices]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:  # noqa: ARG002 - part of Plan
        """LEASE; BUSY or TIMEOUT where another holds it, or none can be had."""
        if bytes(reply[0]).decode() == LEASE:
            self.tokens[indices[0]] = reply[1]

    def held(self) -> list[tuple[bytes, Any]]:
        """The leases that were given."""
        return [(self._keys[index], token) for index, token in self.tokens.items()]


class _ReleasePlan:
    """`SC.RELEASE` of leases that will not be used."""

    read = False
    repeatable = True
    persist = False

    def __init__(self, held: Sequence[tuple[bytes, Any]]) -> None:
        self._held = held

    def build(self, indices: list[int]) -> list[tuple[list[int], Command]]:
        """One command for the keys of a shard."""
        arguments = [part for index in indices for part in self._held[index]]
        return [(indices, (b"SC.RELEASE", *arguments))]

    def accept(self, indices: list[int], reply: Any, shard: ShardInfo) -> None:
        """Nothing to learn: a lease that is not given back ends by itself."""


def _take(
    core: Core, keys: Sequence[bytes], plan: _LeasePlan | _LeasesPlan | _TakePlan, deadline: float, wait_s: float = 0.0
) -> Operation[dict[int, CacheError]]:
    """Carry a plan out; when it is stopped on the way, what it got so far is given back."""
    try:
        return (yield from ask_owners(core, keys, plan, deadline=deadline, wait_s=wait_s))
    except GeneratorExit:
        raise
    except BaseException:
        if held := plan.held():
            yield Spawn(release_in_background(core, held))
        raise


def ask(core: Core, key: bytes, wait_until: float, *, refresh: bool = False) -> Operation[Answer]:
    """HIT, LEASE, UNREADABLE, or TIMEOUT when another held the lease until `wait_until`, or none can be had.

    Raises when the owner does not answer.
    """
    sent_away = False
    while True:
        begun = core.monotonic()
        wait_s = max(0.0, min(WAIT_SLICE_S, wait_until - begun))
        plan = _LeasePlan(core, key, wait_s, refresh=refresh)
        failed = yield from _take(core, (key,), plan, core.deadline() + wait_s, wait_s)
        if failed:
            raise failed[0]
        now = core.monotonic()
        if plan.answer[0] != TIMEOUT or now >= wait_until:
            return plan.answer
        if now - begun < wait_s / 2:  # the key has moved, which its new owner tells, or the table of leases is full
            if sent_away:
                return plan.answer
            sent_away = True


def ask_many(core: Core, keys: Mapping[int, bytes]) -> Operation[tuple[dict[int, Answer], dict[int, CacheError]]]:
    """HIT, LEASE, BUSY or UNREADABLE for keys by number, and the errors of those whose owners did not answer."""
    numbers, asked = list(keys), list(keys.values())
    plan = _LeasesPlan(core, asked)
    failed = yield from _take(core, asked, plan, core.deadline())
    answers = {numbers[at]: answer for at, answer in plan.answers.items()}
    return answers, {numbers[at]: error for at, error in failed.items()}


def take_many(core: Core, keys: Sequence[bytes]) -> Operation[tuple[dict[int, Any], dict[int, CacheError]]]:
    """Tokens of the leases that could be had at once, by index, and the errors of keys whose owners did not answer."""
    plan = _TakePlan(core, keys)
    failed = yield from _take(core, keys, plan, core.deadline())
    return plan.tokens, failed


def elsewhere(core: Core, keys: Mapping[int, bytes]) -> Operation[dict[int, Any]]:
    """Values that other owners have of keys whose first owner, who gives the leases, does not answer."""
    if core.view.replicas < 2:
        return {}
    values, _ = yield from fetch(core, list(keys.values()))
    return {number: value for number, value in zip(keys, values, strict=True) if value is not MISS}


def release(core: Core, held: Sequence[tuple[bytes, Any]]) -> Operation[None]:
    """Give leases back unused. Best effort."""
    if held:
        yield from ask_owners(core, [key for key, _ in held], _ReleasePlan(held), deadline=core.deadline())


def release_in_background(core: Core, held: Sequence[tuple[bytes, Any]]) -> Operation[None]:
    """Give leases back whose fills no shard took, as soon as their shards can be asked again.

    Until then others wait for a fill that does not come. Harmless for a fill that was stored (its lease has ended), and
    for one that comes yet (it is void then).
    """
    end, tries = core.monotonic() + core.options.lease_hold_s, 0
    while held and core.monotonic() < end:
        failed = yield from ask_owners(core, [key for key, _ in held], _ReleasePlan(held), deadline=core.deadline())
        held = [held[at] for at in sorted(failed)]
        if held:
            tries += 1
            yield Sleep(min(1.0, 10 * backoff_s(tries, core.random)))
