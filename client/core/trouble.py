"""What an error reply means: where to turn, or which exception it is.

Invariants: every error text of docs/PROTOCOL.md is mapped here and nowhere else; a foreign exception or an error reply
never reaches the user as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from stratacache.node.errors import (
    AccessError,
    CacheError,
    DeadlineError,
    LimitError,
    UnavailableError,
    UsageError,
)

from .effects import ShardFailure


class Kind(Enum):
    """What to do about it."""

    MOVED = "moved"  # another shard owns the key: refresh the view
    SUSPENDED = "suspended"  # may not serve now: another owner, or a newer view
    LOADING = "loading"  # soon: wait a little
    INCOMPLETE = "incomplete"  # an invalidation that the shard could not carry through
    FINAL = "final"  # asking again would bring the same answer


@dataclass(frozen=True, slots=True)
class Trouble:
    """A read error reply. `epoch` is the shard's, where it names one."""

    kind: Kind
    error: CacheError
    epoch: int = -1
    shards: tuple[str, ...] = ()


def read_trouble(text: str, shard_id: str) -> Trouble:
    """Understand an error reply of a shard."""
    word, _, rest = text.partition(" ")
    parts = rest.split()
    unavailable = UnavailableError(f"{shard_id} answered {text!r}")
    if word == "MOVED":
        return Trouble(Kind.MOVED, unavailable, _epoch(parts), tuple(parts[1:2]))
    if word == "SUSPENDED":
        return Trouble(Kind.SUSPENDED, unavailable, _epoch(parts))
    if word in ("LOADING", "TRYAGAIN", "CLUSTERDOWN", "BUSY"):
        return Trouble(Kind.LOADING, unavailable)
    if word == "INCOMPLETE":
        return Trouble(Kind.INCOMPLETE, unavailable, shards=tuple(rest.replace(",", " ").split()))
    if word in ("NOAUTH", "WRONGPASS", "NOPERM"):
        return Trouble(Kind.FINAL, AccessError(f"{shard_id} refuses: {rest or word} (see the token= of connect)"))
    if word == "LIMIT":
        return Trouble(Kind.FINAL, LimitError(rest))
    if word in ("OOM", "MISCONF", "READONLY", "UNAVAILABLE"):
        return Trouble(Kind.FINAL, unavailable)
    return Trouble(Kind.FINAL, UsageError(f"{shard_id}: {text.removeprefix('ERR ')}"))


def _epoch(parts: list[str]) -> int:
    return int(parts[0]) if parts and parts[0].isdecimal() else -1


def failure_error(failure: ShardFailure) -> CacheError:
    """The exception of a call that brought no answer."""
    if failure.refused is not None:
        return failure.refused
    return DeadlineError(str(failure)) if failure.timed_out else UnavailableError(str(failure))
