"""What the coordinator's decisions hear (events, past tense) and ask for (effects, imperative) beside messages.

Invariant: plain frozen values without behaviour, so that the same decisions run in a Ray actor and in a simulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stratacache.cluster import messages as m

# ------------------------------------------------------------------ what it hears


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """Time has passed; sent about four times a second."""


@dataclass(frozen=True, kw_only=True)
class NodeSeen:
    """A Ray node that is alive and may hold shards, at most `capacity` (None: any number).

    With `home` J it is where the shards J*capacity and on belong, and no others may be there.
    """

    id: str
    address: str
    capacity: int | None = None
    home: int | None = None


@dataclass(frozen=True, kw_only=True)
class NodesSeen:
    """The Ray nodes that are alive now."""

    nodes: tuple[NodeSeen, ...]


@dataclass(frozen=True, kw_only=True)
class NodeDraining:
    """A Ray node is about to go: its shards are to write out what they hold, and to end."""

    node: str


@dataclass(frozen=True, kw_only=True)
class ShardStartFailed(m.OfProcess):
    """A shard process could not be started; `reason` is one line for the user."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardLost(m.OfProcess):
    """Ray reports the actor dead. That is no proof that its process has stopped."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """A coordinator has begun its work under `term` and has asked every shard that Ray knows.

    `silent` are those which gave no answer: they may still serve until their leases run out. `target` is what the last
    TargetSet said, empty when there was none.
    """

    term: int
    epoch_floor: int
    found: tuple[m.Found, ...] = ()
    silent: tuple[tuple[str, int], ...] = ()
    target: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NameConfirmed:
    """Ray's control service said, to a question sent at `sent_ms`, that this coordinator is the one behind its name."""

    sent_ms: int


@dataclass(frozen=True, kw_only=True)
class EpochRemembered:
    """The epoch is this coordinator's: it was written down where it outlives all shards."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class EpochTaken:
    """The epoch could not be remembered, since another coordinator had used it."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class TargetSet:
    """These shards are wanted from now on, with these weights; it was written down where it outlives all shards."""

    shards: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class StopRequested:
    """The cluster is to end."""


CoordinatorEvent = (
    Ticked
    | NodesSeen
    | NodeDraining
    | m.ShardStarted
    | ShardStartFailed
    | ShardLost
    | m.LeaseRequested
    | m.Prepared
    | m.Activated
    | m.Outpaced
    | Recovered
    | NameConfirmed
    | EpochRemembered
    | EpochTaken
    | TargetSet
    | StopRequested
)


# ------------------------------------------------------------------ what it asks for


@dataclass(frozen=True, kw_only=True)
class RememberEpoch:
    """Claim the epoch where it outlives all shards, and answer EpochRemembered or EpochTaken; asked again without."""

    term: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class StartShard(m.OfProcess):
    """Start a process for the shard on the Ray node (""; anywhere); `port` is a wish when it is not configured."""

    node: str
    port: int


@dataclass(frozen=True, kw_only=True)
class KillShard(m.OfProcess):
    """End the shard's process at once."""


@dataclass(frozen=True, kw_only=True)
class CloseShard(m.OfProcess):
    """Have the shard flush, mark its L3 clean and end; `forget`: empty it first, since it will not be needed again."""

    forget: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportFailed:
    """The cluster could not be formed; everything that was started is being removed."""

    reason: str


CoordinatorEffect = (
    RememberEpoch
    | StartShard
    | KillShard
    | CloseShard
    | m.Prepare
    | m.Activate
    | m.GrantLease
    | m.RefuseLease
    | ReportFailed
)
