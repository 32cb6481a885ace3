"""The vocabulary between operations and shells: what an operation may ask for, and how an outcome comes back.

Invariants: an operation is a generator that yields effects and touches no socket, clock or thread itself; an Exchange
never raises for a shard's sake (each call's outcome is its replies or a ShardFailure).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from stratacache.client.core.flight import Flight
from stratacache.client.view import ShardInfo
from stratacache.node.errors import CacheError

T = TypeVar("T")

Command: TypeAlias = tuple[Any, ...]
"""Name and arguments of one command: bytes, str or int each; a list of buffers stands for their joined bytes."""


@dataclass(slots=True, eq=False)
class Call:
    """Commands for one shard, sent together. `wait_s`: how long the shard itself may hold its answer back."""

    shard: ShardInfo
    commands: list[Command]
    wait_s: float = 0.0
    repeatable: bool = True  # whether nothing is wrong with running it twice


class ShardFailure(Exception):  # noqa: N818 - an outcome that is passed, not raised to users
    """Why a call brought no replies. `sent`: the shard may have run the commands all the same.

    `refused` is set when the shard answered but would not have us (wrong token): asking again is of no use.
    """

    def __init__(
        self, shard_id: str, reason: str, *, sent: bool, timed_out: bool = False, refused: CacheError | None = None
    ) -> None:
        super().__init__(f"{shard_id}: {reason}")
        self.shard_id = shard_id
        self.sent = sent
        self.timed_out = timed_out
        self.refused = refused


@dataclass(slots=True, eq=False)
class Exchange:
    """Send every call, then collect. Outcome: for each call its list of replies, or a ShardFailure."""

    calls: list[Call]
    deadline: float  # on the core's monotonic clock


@dataclass(slots=True, eq=False)
class Sleep:
    """Let time pass. Outcome: None."""

    seconds: float


@dataclass(slots=True, eq=False)
class Discover:
    """Ask outside the shards (Ray) who is in the cluster. Outcome: a View, or None when there is nobody to ask.

    Raises UnavailableError when Ray, or the coordinator, gives no view within `timeout_s`.
    """

    timeout_s: float


@dataclass(slots=True, eq=False)
class Compute:
    """Run the caller's function. Outcome: `(result, seconds)`; what it raises is raised at the yield."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(slots=True, eq=False)
class Join:
    """Wait until a flight of this process has landed. Outcome: whether it has, before the deadline."""

    flight: Flight
    deadline: float


@dataclass(slots=True, eq=False)
class Spawn:
    """Run another operation in the background. Outcome: None at once."""

    operation: Operation[Any]


Effect: TypeAlias = Exchange | Sleep | Discover | Compute | Join | Spawn
Operation: TypeAlias = Generator[Effect, Any, T]
