"""What a shard's serving decisions ask for and is done at once, on the parts of its process.

The shell in a Ray actor and its double in the simulation both come here, so what the simulation shows is what runs.

Invariant: nothing here waits for anything; what may take a while stays with who calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from stratacache.cluster import serving_events as s

if TYPE_CHECKING:
    from stratacache.client.view import View
    from stratacache.cluster.handoff import Handoffs
    from stratacache.cluster.replication import Replication
    from stratacache.node.resp.server import NodeServer


class FollowsView(Protocol):
    """Keeps connections to the other shards of a view."""

    def follow(self, view: View) -> None:
        """Have those of this view from now on."""


class Routes(Protocol):
    """Says which shard answers for a key."""

    def set_view(self, view: View) -> None:
        """Route by this view from now on."""


class Parts(Protocol):
    """The parts of one shard's process; `replication` and `links` are there when keys have several owners."""

    @property
    def server(self) -> NodeServer: ...  # noqa: D102 (the class tells)
    @property
    def handoffs(self) -> Handoffs: ...  # noqa: D102
    @property
    def forwarder(self) -> Routes: ...  # noqa: D102
    @property
    def replication(self) -> Replication | None: ...  # noqa: D102
    @property
    def links(self) -> FollowsView | None: ...  # noqa: D102


def act_at_once(parts: Parts, effect: s.ServingEffect) -> bool:
    """Carry an effect out; False when it is none of those that take no time."""
    match effect:
        case s.HoldInvalidations(on=on):
            parts.server.hold_invalidations = on
        case s.ServeUntil(ms=ms):
            parts.server.serve_until_ms = ms
        case s.HoldChains(view=view):
            if parts.replication is not None and parts.links is not None:
                parts.replication.prepare(view)
                parts.links.follow(view)
        case s.StopMoving(view=view):
            parts.handoffs.stop_moving(view)
        case s.BeginHandoff():
            parts.handoffs.begin(effect)
        case s.ShowView(view=view, returns=returns):
            parts.server.set_view(view.to_bytes(), view.epoch)
            parts.forwarder.set_view(view)
            if parts.replication is not None and parts.links is not None:
                parts.replication.activate(view, returns=returns)
                parts.links.follow(view)
        case _:
            return False
    return True
