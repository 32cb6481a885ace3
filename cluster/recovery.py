"""What a coordinator that begins makes of the shards that it finds: which view is in force, and who may still serve.

Invariants: silence counts as "may serve until its lease has run out"; a view is believed only when no later one can be
in force.
"""

from __future__ import annotations

from collections.abc import Mapping

from stratacache.client.view import ACTIVE, View
from stratacache.cluster import coordinator_events as c
from stratacache.cluster import messages as m
from stratacache.cluster.members import Member, Process
from stratacache.cluster.membership import shard_number


def newest_found(event: c.Recovered) -> m.Found | None:
    """A shard that knows the newest view, if that is certainly the last one; else None."""
    newest = max((one for one in event.found if one.view is not None), key=_epoch_found, default=None)
    if newest is None or newest.view is None or not _is_last(newest.view, event):
        return None
    return newest


def recovered_members(
    event: c.Recovered, newest: m.Found | None, target: Mapping[str, float], latest_ms: int
) -> dict[str, Member]:
    """Each shard that is wanted, or in the newest view, or of which a process runs: it may not have heard of that view.

    When a view was in force that nobody can tell of, all that is certain is what is wanted.
    """
    view = newest.view if newest is not None else None
    if view is None and event.epoch_floor > 0:
        return {shard: Member(id=shard, weight=weight) for shard, weight in target.items()}
    ids = set(target)
    if view is not None:
        ids |= view.by_id.keys() | {found.started.shard for found in event.found} | {shard for shard, _ in event.silent}
    members = {shard: Member(id=shard) for shard in sorted(ids, key=shard_number)}
    for member in members.values():
        member.leaving = member.id not in target
        member.weight = target.get(member.id, 1.0)
        if newest is not None:
            member.fence = newest.fences.get(member.id, "")
            member.away_since = newest.away.get(member.id)
        _recover(member, view, event, latest_ms)
    return members


def _recover(member: Member, view: View | None, event: c.Recovered, latest_ms: int) -> None:
    """What one shard's processes can be doing now: an answer tells; silence may serve until `latest_ms`."""
    entry = view.by_id.get(member.id) if view is not None else None
    if entry is not None and entry.state == ACTIVE:
        member.incarnation = member.served_by = int(entry.incarnation)
        member.serving_until_ms, member.home = latest_ms, entry.node
    for shard, incarnation in event.silent:
        if shard == member.id:
            member.incarnation = max(member.incarnation, incarnation)
            if entry is None and view is not None:
                member.served_by, member.serving_until_ms = member.incarnation, latest_ms
    for found in event.found:
        started = found.started
        if started.shard != member.id or started.incarnation < member.incarnation:
            continue
        member.incarnation, member.started, member.process = started.incarnation, started, Process.UP
        member.home, member.port = started.node, started.port
        own = found.view.by_id.get(member.id) if found.view is not None else None
        if entry is None and view is not None and found.view is not None:
            # It is of an earlier view, under which it perhaps still serves.
            member.served_by, member.serving_until_ms = started.incarnation, latest_ms
            member.fence = started.fence
        if member.served_by != started.incarnation:
            continue
        was_active = own is not None and own.state == ACTIVE and own.incarnation == str(started.incarnation)
        knows_newest = found.view is not None and view is not None and found.view.epoch >= view.epoch
        if entry is None or (was_active and (found.serves or knows_newest)):
            member.fence = started.fence
        elif was_active and found.view is not None:
            # It may have been suspended since, and the newest view be the one that lets it in again.
            member.served_by, member.away_since = 0, found.view.epoch + 1
        else:  # the view that lets it join never reached it: it has not served, and is not prepared to
            member.served_by = member.serving_until_ms = 0


def _is_last(view: View, event: c.Recovered) -> bool:
    """Whether no later view than this, the newest found, can be in force.

    Either no later epoch was ever remembered, or each active shard of it still has the right to serve under it: then
    none of them was suspended, and a later view in which they stay was not prepared by all.
    """
    serving = {(one.started.shard, str(one.started.incarnation)) for one in event.found if one.serves}
    active = {(shard.id, shard.incarnation) for shard in view.shards if shard.state == ACTIVE}
    return view.epoch >= event.epoch_floor or (bool(active) and active <= serving)


def _epoch_found(found: m.Found) -> int:
    return found.view.epoch if found.view is not None else 0
