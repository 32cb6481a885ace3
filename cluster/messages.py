"""What the coordinator and the shards tell each other about views, serving leases and what shards hold.

Invariants: plain frozen values without behaviour, so that the same decisions run in Ray actors and in a simulation;
everything that is meant for one process names its incarnation, and everything a coordinator says its term. What only
one of the two hears or does stands in coordinator_events.py and serving_events.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stratacache.client.view import View


@dataclass(frozen=True, kw_only=True)
class OfProcess:
    """Comes from one process of a shard, or is meant for it: no other incarnation takes notice."""

    shard: str
    incarnation: int


# ------------------------------------------------------------------ what a shard holds, and owes


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


# ------------------------------------------------------------------ from a shard


@dataclass(frozen=True, kw_only=True)
class ShardStarted(OfProcess):
    """A shard process runs and listens, but does not serve yet.

    `fence` identifies the lock that it holds for its lifetime. A successor that holds the same lock proves that the
    process before it is gone.
    """

    host: str
    port: int
    unix: str
    node: str
    pid: int
    fence: str
    stored: Stored | None = None


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
class LeaseRequested(OfProcess):
    """An active shard asks to go on serving under `epoch`; `leftovers` is how many moved entries it still holds."""

    epoch: int
    leftovers: int = 0


@dataclass(frozen=True, kw_only=True)
class Prepared(OfProcess):
    """A shard has stored the view of `epoch` and holds invalidations back until it is activated.

    `owed` holds its logs of what the shards that this view lets in again owe.
    """

    epoch: int
    owed: Mapping[str, DebtLog] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Activated(OfProcess):
    """A shard works under the view of `epoch`."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class Outpaced(OfProcess):
    """A shard refuses a prepare, since it already has a view of `epoch`: another coordinator was faster."""

    epoch: int


Answers = list[Prepared | Activated | Outpaced]
"""What a shard vouches for after a step of a view change."""


# ------------------------------------------------------------------ from the coordinator


@dataclass(frozen=True, kw_only=True)
class Prepare(OfProcess):
    """First step of a view change, to one shard.

    `away`: suspended shards and the epoch since which they are; the receiver logs what they owe. `fences`: the locks
    of all serving shards. Both are kept for a coordinator that recovers. `keep` is for a shard that joins: whether the
    content it came with may be kept once it has paid `debts`; None for one that stays. `returns`: others went on
    meanwhile. `after` is the epoch in force when the change began. `former` is the view in force when it has another
    ring: its shards are the former owners of what moves, asked for `window_ms`.
    """

    term: int
    view: View
    away: Mapping[str, int] = field(default_factory=dict)
    fences: Mapping[str, str] = field(default_factory=dict)
    keep: bool | None = None
    debts: tuple[Debt, ...] = ()
    returns: bool = False
    after: int = 0
    former: View | None = None
    window_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Activate(OfProcess):
    """Second step of a view change, to one shard."""

    term: int
    view: View


@dataclass(frozen=True, kw_only=True)
class GrantLease(OfProcess):
    """The shard may serve for the lease's time, counted from when it sent its request."""

    term: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class RefuseLease(OfProcess):
    """The shard may not serve; `gone` when this incarnation has been replaced and should end."""

    term: int
    gone: bool
