"""What a shard's serving decisions hear (events, past tense) and ask for (effects, imperative) beside messages.

Invariant: plain frozen values without behaviour, so that the same decisions run in a Ray actor and in a simulation.
"""

from __future__ import annotations

from dataclasses import dataclass

from stratacache.client.view import View
from stratacache.cluster import messages as m

# ------------------------------------------------------------------ what they hear


@dataclass(frozen=True, kw_only=True)
class LeaseGranted:
    """The coordinator's answer to a request that this shard sent at `sent_ms` on its own monotonic clock."""

    term: int
    epoch: int
    sent_ms: int


@dataclass(frozen=True, kw_only=True)
class Invalidated:
    """What suspended shards owe: an invalidation that went to all active shards, or keys that changed without `shard`.

    With `shard` only that one owes it: it is one of several owners of the keys.
    """

    debt: m.Debt
    shard: str = ""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was on its way to other owners when the view of `epoch` was prepared has arrived, or nobody waits for it."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class LeftoversGone:
    """What had moved to other shards by `epoch` is not held here any more."""

    epoch: int


ServingEvent = m.Prepare | m.Activate | LeaseGranted | m.RefuseLease | Invalidated | Settled | LeftoversGone


# ------------------------------------------------------------------ what they ask for


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

    debts: tuple[m.Debt, ...]


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

    event: m.Prepared | m.Activated | m.Outpaced


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
