"""What the two decision cores of the cluster hear (events, past tense) and ask for (effects, imperative).

Invariants: plain frozen values without behaviour, so that the same cores run in Ray actors and in a simulation;
everything that crosses between processes carries the incarnation it is meant for and the sender's term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stratacache.client.view import View


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a shard found in its home directory when it started: who wrote the L3 that lies there, and when.

    `clean`: it was closed on request, with the whole cluster. `pinned`: all shards of that cluster were on one machine.
    `mixed`: entries may be among it that had moved to other shards.
    """

    uid: str
    incarnation: int
    epoch: int
    ring: str
    clean: bool
    pinned: bool
    mixed: bool = False


@dataclass(frozen=True, kw_only=True)
class Debt:
    """One invalidation that a suspended shard owes: `kind` is keys, tags, namespace or all."""

    kind: str
    names: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DebtLog:
    """Every invalidation that the sender applied since it prepared epoch `since`; not `whole` after an overflow."""

    since: int
    whole: bool
    debts: tuple[Debt, ...] = ()


# ------------------------------------------------------------------ what a coordinator hears


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
class ShardStarted:
    """A shard process runs and listens, but does not serve yet.

    `fence` identifies the lock that it holds for its lifetime. A successor that holds the same lock proves that the
    process before it is gone.
    """

    shard: str
    incarnation: int
    host: str
    port: int
    unix: str
    node: str
    pid: int
    fence: str
    stored: Stored | None = None


@dataclass(frozen=True, kw_only=True)
class ShardStartFailed:
    """A shard process could not be started; `reason` is one line for the user."""

    shard: str
    incarnation: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardLost:
    """Ray reports the actor dead. That is no proof that its process has stopped."""

    shard: str
    incarnation: int


@dataclass(frozen=True, kw_only=True)
class LeaseRequested:
    """An active shard asks to go on serving under `epoch`; `leftovers` is how many moved entries it still holds."""

    shard: str
    incarnation: int
    epoch: int
    leftovers: int = 0


@dataclass(frozen=True, kw_only=True)
class TargetSet:
    """These shards are wanted from now on, with these weights; it was written down where it outlives all shards."""

    shards: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A shard has stored the view of `epoch` and holds invalidations back until it is activated."""

    shard: str
    incarnation: int
    epoch: int
    owed: Mapping[str, DebtLog] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Activated:
    """A shard works under the view of `epoch`."""

    shard: str
    incarnation: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Outpaced:
    """A shard refuses a prepare, since it already has a view of `epoch`: another coordinator was faster."""

    shard: str
    incarnation: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class EpochRemembered:
    """The epoch is this coordinator's: it was written down where it outlives all shards."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class EpochTaken:
    """The epoch could not be remembered, since another coordinator had used it."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """A live shard as a new coordinator finds it: `view` is the newest that it has stored, prepared or active.

    `serves`: its serving lease has not run out, so nobody can have suspended it.
    """

    started: ShardStarted
    view: View | None
    serves: bool = False
    away: Mapping[str, int] = field(default_factory=dict)
    fences: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """A coordinator has begun its work under `term` and has asked every shard that Ray knows.

    `silent` are those which gave no answer: they may still serve until their leases run out. `target` is what the last
    TargetSet said, empty when there was none.
    """

    term: int
    epoch_floor: int
    found: tuple[Found, ...] = ()
    silent: tuple[tuple[str, int], ...] = ()
    target: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NameConfirmed:
    """Ray's control service said, to a question sent at `sent_ms`, that this coordinator is the one behind its name."""

    sent_ms: int


@dataclass(frozen=True, kw_only=True)
class NodeDraining:
    """A Ray node is about to go: its shards are to write out what they hold, and to end."""

    node: str


@dataclass(frozen=True, kw_only=True)
class StopRequested:
    """The cluster is to end."""


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """Time has passed; sent about four times a second."""


CoordinatorEvent = (
    NodesSeen
    | ShardStarted
    | ShardStartFailed
    | ShardLost
    | LeaseRequested
    | Prepared
    | Activated
    | Outpaced
    | EpochRemembered
    | EpochTaken
    | Recovered
    | NameConfirmed
    | NodeDraining
    | TargetSet
    | StopRequested
    | Ticked
)


# ------------------------------------------------------------------ what a coordinator asks for


@dataclass(frozen=True, kw_only=True)
class RememberEpoch:
    """Claim the epoch where it outlives all shards, and answer EpochRemembered or EpochTaken; asked again without."""

    term: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class StartShard:
    """Start a process for the shard on the Ray node (""; anywhere); `port` is a wish when it is not configured."""

    shard: str
    incarnation: int
    node: str
    port: int


@dataclass(frozen=True, kw_only=True)
class KillShard:
    """End the shard's process at once."""

    shard: str
    incarnation: int


@dataclass(frozen=True, kw_only=True)
class CloseShard:
    """Have the shard flush, mark its L3 clean and end; `forget`: empty it first, since it will not be needed again."""

    shard: str
    incarnation: int
    forget: bool = False


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """First step of a view change, to one shard.

    `away`: suspended shards and the epoch since which they are; the receiver logs what they owe. `fences`: the locks
    of all serving shards. Both are kept for a coordinator that recovers. `keep` is for a shard that joins: whether the
    content it came with may be kept once it has paid `debts`; None for one that stays. `returns`: others went on
    meanwhile. `former` is the view in force when it has another ring: its shards are the former owners of what moves,
    asked for `window_ms`.
    """

    shard: str
    incarnation: int
    term: int
    view: View
    away: Mapping[str, int] = field(default_factory=dict)
    fences: Mapping[str, str] = field(default_factory=dict)
    keep: bool | None = None
    debts: tuple[Debt, ...] = ()
    returns: bool = False
    former: View | None = None
    window_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Activate:
    """Second step of a view change, to one shard."""

    shard: str
    incarnation: int
    term: int
    view: View


@dataclass(frozen=True, kw_only=True)
class GrantLease:
    """The shard may serve for the lease's time, counted from when it sent its request."""

    shard: str
    incarnation: int
    term: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class RefuseLease:
    """The shard may not serve; `gone` when this incarnation has been replaced and should end."""

    shard: str
    incarnation: int
    term: int
    gone: bool


@dataclass(frozen=True, kw_only=True)
class ReportFailed:
    """The cluster could not be formed; everything that was started is being removed."""

    reason: str


CoordinatorEffect = (
    RememberEpoch | StartShard | KillShard | CloseShard | Prepare | Activate | GrantLease | RefuseLease | ReportFailed
)


# ------------------------------------------------------------------ what a shard hears and does


@dataclass(frozen=True, kw_only=True)
class LeaseGranted:
    """The coordinator's answer to a request that this shard sent at `sent_ms` on its own monotonic clock."""

    term: int
    epoch: int
    sent_ms: int


@dataclass(frozen=True, kw_only=True)
class LeaseRefused:
    """The coordinator's refusal; `gone` when this incarnation has been replaced."""

    term: int
    gone: bool


@dataclass(frozen=True, kw_only=True)
class Invalidated:
    """What suspended shards owe: an invalidation that went to all active shards, or keys that changed without `shard`.

    With `shard` only that one owes it: it is one of several owners of the keys.
    """

    debt: Debt
    shard: str = ""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was on its way to other owners when the view of `epoch` was prepared has arrived, or nobody waits for it."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class LeftoversGone:
    """What had moved to other shards by `epoch` is not held here any more."""

    epoch: int


ServingEvent = Prepare | Activate | LeaseGranted | LeaseRefused | Invalidated | Settled | LeftoversGone


@dataclass(frozen=True, kw_only=True)
class HoldInvalidations:
    """Refuse invalidations (on) or take them again (off)."""

    on: bool


@dataclass(frozen=True, kw_only=True)
class HoldChains:
    """Change no key whose owners change with this view, and do not wait for shards that are out of it."""

    view: View


@dataclass(frozen=True, kw_only=True)
class Settle:
    """Come back with Settled once what is on its way now has arrived; meanwhile everything else goes on."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class ServeUntil:
    """Answer data commands until this moment of the shard's monotonic clock, and not a moment longer."""

    ms: int


@dataclass(frozen=True, kw_only=True)
class DropContent:
    """Empty every level, disk included."""


@dataclass(frozen=True, kw_only=True)
class PayDebts:
    """Apply these invalidations to every level, disk included."""

    debts: tuple[Debt, ...]


@dataclass(frozen=True, kw_only=True)
class StoreState:
    """Write to the shard's home, durably: who serves from it since which epoch."""

    epoch: int
    ring: str
    mixed: bool = False


@dataclass(frozen=True, kw_only=True)
class StopMoving:
    """Answer for those keys only that this shard owns under the view in force and under this one."""

    view: View


@dataclass(frozen=True, kw_only=True)
class DropLeftovers:
    """Drop every entry of a key that this shard does not own under the view in force."""


@dataclass(frozen=True, kw_only=True)
class BeginHandoff:
    """The view of another ring is about to be shown: take what comes from former owners, keep what goes to new ones.

    Without `former` nothing comes. Both end after `window_ms` at the latest.
    """

    view: View
    former: View | None
    window_ms: int


@dataclass(frozen=True, kw_only=True)
class ShowView:
    """Route by this view and hand it to clients; `returns`: it lets this shard in beside others that went on."""

    view: View
    returns: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Tell the coordinator; comes after everything that it vouches for."""

    event: Prepared | Activated | Outpaced


@dataclass(frozen=True, kw_only=True)
class AskLease:
    """Ask for a serving lease now instead of at the next beat."""


@dataclass(frozen=True, kw_only=True)
class End:
    """This incarnation has been replaced: end the process."""


ServingEffect = (
    HoldInvalidations
    | HoldChains
    | Settle
    | ServeUntil
    | DropContent
    | PayDebts
    | StoreState
    | StopMoving
    | DropLeftovers
    | BeginHandoff
    | ShowView
    | Answer
    | AskLease
    | End
)
