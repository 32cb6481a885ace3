"""Whether the content that a shard finds on its disk may be kept.

A disk may be older than it looks: its shard may have lived elsewhere since, or may have missed invalidations. Keeping
it then would serve what somebody was told is gone. Dropping it costs misses only. So every rule here asks for proof.

Invariant: `True` is returned only where no invalidation and no put can have been acknowledged that the disk, after
paying the debts handed to it, does not know of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from stratacache.client.view import SUSPENDED, ShardInfo, View
from stratacache.cluster.messages import Debt, DebtLog, Stored


def ring_digest(shards: Iterable[tuple[str, float]], copies: str = "") -> str:
    """Names the assignment of keys to shards: a function of ids and weights, and of what keeps `copies` apart."""
    text = ";".join(f"{shard}={weight!r}" for shard, weight in sorted(shards)) + copies
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def view_ring(view: View) -> str:
    """The digest of a view's ring."""
    pairs = [(shard.id, shard.weight) for shard in view.shards]
    if view.replicas == 1:
        return ring_digest(pairs)
    numbers: dict[str, int] = {}
    together = [numbers.setdefault(shard.place or f"\0{shard.id}", len(numbers)) for shard in view.shards]
    return ring_digest(pairs, f"|{view.replicas}|{together}")


def keep_at_first_start(found: Mapping[str, Stored | None], ring: str, replicas: int = 1) -> bool:
    """Whether a whole cluster that starts again may keep what its shards have on disk.

    All or none: every shard of the same ring must be there with the same last epoch. A shard that is missing, or older
    than the others, means that some of them served without the rest. And each disk must have been closed cleanly, or
    the cluster must have been on one machine all the time: a shard that died uncleanly on one of several machines may
    have lived on, and taken invalidations, on another whose disk is not here to tell. With several owners of a key
    only the clean close counts: a crash may have caught a change between them.
    """
    stored = [one for one in found.values() if one is not None]
    if len(stored) != len(found) or any(one.mixed for one in stored):
        return False
    if len({(one.uid, one.epoch, one.ring) for one in stored}) != 1 or stored[0].ring != ring:
        return False
    return all(one.clean for one in stored) or (replicas == 1 and all(one.pinned for one in stored))


def keep_at_return(
    stored: Stored | None,
    before: ShardInfo,
    view: View,
    uid: str,
    *,
    away: Mapping[str, int],
    logs: Sequence[DebtLog],
) -> tuple[bool, tuple[Debt, ...]]:
    """Whether a shard that comes back into a living cluster may keep its disk, and the debts to pay first.

    `before` is its entry in `view`, the view in force while it was away; `away` the epochs that suspended the shards
    which are (it is not among them: it was never suspended, so nothing could be acknowledged without it); `logs` what
    its peers recorded.
    """
    away_since = away.get(before.id)
    if stored is None or stored.uid != uid or str(stored.incarnation) != before.incarnation:
        return False, ()
    if stored.ring != view_ring(view) or stored.mixed:
        return False, ()
    if view.replicas > 1:
        return _keep_copies(before.id, view, away, logs)
    if away_since is None:
        return True, ()
    if away_since == view.epoch and all(shard.state == SUSPENDED for shard in view.shards):
        return True, ()  # nobody was left to acknowledge anything
    for log in logs:
        if log.whole and log.since <= away_since:
            return True, log.debts
    return False, ()


def _keep_copies(
    shard: str, view: View, away: Mapping[str, int], logs: Sequence[DebtLog]
) -> tuple[bool, tuple[Debt, ...]]:
    """The same where keys have several owners: others changed them meanwhile, and each knows which ones it changed.

    So all that were active when it went away must still be, each with a whole log. What lies on its disk had reached
    every owner that was active then (`PendingWrites.unsettled`): nothing of it is ahead of the others.
    """
    since = away.get(shard)
    if since is None or any(other > since for other in away.values()):
        return False, ()
    active = [one for one in view.shards if one.state != SUSPENDED]
    if not active:
        return since == view.epoch, ()  # nobody was left to change anything
    if len(logs) < len(active) or not all(log.whole and log.since <= since for log in logs):
        return False, ()
    return True, tuple(dict.fromkeys(debt for log in logs for debt in log.debts))
