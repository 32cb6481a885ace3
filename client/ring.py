"""Which shards own a key: a consistent-hash ring that is a pure function of a view.

The continuum is uhashring's (md5 ring): shard `s` of weight w has the points md5(f"{s}-{i}") for i below
round(1024 * w), and a key belongs to the first point above md5(key). Positions are the first 8 bytes of the md5, big
endian, so that the whole ring fits into flat arrays. A string key has the same owner as `uhashring.HashRing.get_node`.

Invariants: a ring never changes (uhashring's raises KeyError in readers while membership changes: a new view gets a new
ring, and the reference is swapped); shard ids, never addresses, are hashed; the owners of a key are distinct shards,
the primary first, on distinct machines as far as there are enough machines.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.node.errors import UnavailableError

try:
    from _md5 import md5  # type: ignore[import-not-found]  # twice as fast as OpenSSL's for short keys; FIPS builds too
except ImportError:
    from hashlib import md5

# Measured for 2 to 128 shards (benchmarks/ring.py): with 1,024 points the share that a new shard takes stays within
# 10 % of 1/N and no shard holds more than 1.12x the mean; with uhashring's default of 160, 25 % and 1.29x.
POINTS_PER_WEIGHT = 1024

# From here on NumPy sorts the points: 1,000 shards have a million of them, which Python alone sorts in over a second.
SHARDS_FOR_NUMPY = 64


def position(key: bytes) -> int:
    """Where a key or a point lies on the ring, 0 to 2**64 - 1."""
    return int.from_bytes(md5(key).digest()[:8], "big")


def _point_position(name: str) -> int:
    return position(name.encode())


@lru_cache(maxsize=2048)
def _shard_points(shard_id: str, count: int) -> array[int]:
    """The sorted points of one shard; kept, because most shards are the same in the next view."""
    from uhashring import HashRing  # noqa: PLC0415  # not needed for a lone shard

    ring = HashRing(nodes={shard_id: {"vnodes": count}}, hash_fn=_point_position)
    return array("Q", ring._keys)


class Ring:
    """Routes keys for one view. A lookup costs one md5 and one bisection, whatever the number of shards."""

    __slots__ = ("_group", "_group_count", "_memo", "_owner", "_points", "_replicas", "shards", "usable", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.shards: tuple[ShardInfo, ...] = view.shards
        self._points: array[int] = array("Q")
        self._owner: array[int] = array("H")
        if len(self.shards) > 1:
            self._lay_points()
        # Machines as numbers; a shard that names none counts as a machine of its own.
        numbers: dict[str, int] = {}
        self._group = [numbers.setdefault(shard.place or f"\0{shard.id}", len(numbers)) for shard in self.shards]
        self._group_count = len(numbers)
        self._replicas = min(view.replicas, len(self.shards))
        self._memo: dict[int, tuple[ShardInfo, ...]] = {}
        self.usable = bool(self.shards) and all(shard.state == ACTIVE for shard in self.shards)

    def _lay_points(self) -> None:
        laid = [_shard_points(shard.id, max(1, round(POINTS_PER_WEIGHT * shard.weight))) for shard in self.shards]
        # Where two points share a position (one ring in 10**7), both ways leave the lesser shard id first.
        if len(laid) >= SHARDS_FOR_NUMPY:
            import numpy as np  # noqa: PLC0415  # small clusters do without it

            points = np.concatenate([np.frombuffer(each, dtype=np.uint64) for each in laid])
            order = np.argsort(points, kind="stable")
            owners = np.repeat(np.arange(len(laid), dtype=np.uint16), [len(each) for each in laid])
            self._points.frombytes(points[order].tobytes())
            self._owner.frombytes(owners[order].tobytes())
        else:
            placed = sorted((point, number) for number, each in enumerate(laid) for point in each)
            self._points.extend(point for point, _ in placed)
            self._owner.extend(number for _, number in placed)

    def primary(self, key: bytes) -> ShardInfo:
        """The first owner of a canonical full key. Raises UnavailableError when the view is empty."""
        if self._points:
            at = bisect_right(self._points, int.from_bytes(md5(key).digest()[:8], "big"))
            return self.shards[self._owner[at]] if at < len(self._owner) else self.shards[self._owner[0]]
        if self.shards:
            return self.shards[0]
        raise UnavailableError("the cache has no shards in its view; see `stratacache status`")

    def owners(self, key: bytes) -> tuple[ShardInfo, ...]:
        """The shards that hold a key, primary first: min(replicas, number of shards) of them."""
        if self._replicas == 1 or not self._points:
            return (self.primary(key),)
        at = bisect_right(self._points, int.from_bytes(md5(key).digest()[:8], "big"))
        if at == len(self._owner):
            at = 0
        if self._replicas == 2:  # mostly the next point decides; looking it up anew is cheaper than remembering it
            owner = self._owner
            first, second = owner[at], owner[at + 1 if at + 1 < len(owner) else 0]
            if self._group[first] != self._group[second]:
                return (self.shards[first], self.shards[second])
        found = self._memo.get(at)
        if found is None:
            # Owners depend on the point alone. Kept per point when first needed: at 1,000 shards most points never are.
            found = self._memo[at] = self._successors(at)
        return found

    def _successors(self, at: int) -> tuple[ShardInfo, ...]:
        """Walk the ring from a point: first shards on machines not yet taken, then, if these run out, any others."""
        apart: list[int] = []
        nearest: list[int] = []
        groups: set[int] = set()
        groups_wanted = min(self._replicas, self._group_count)
        length = len(self._owner)
        for step in range(length):
            number = self._owner[(at + step) % length]
            if self._group[number] not in groups:
                groups.add(self._group[number])
                apart.append(number)
            if len(nearest) < self._replicas and number not in nearest:
                nearest.append(number)
            if len(apart) >= groups_wanted and len(nearest) >= self._replicas:
                break
        chosen = apart[:groups_wanted]
        chosen += [number for number in nearest if number not in chosen][: self._replicas - len(chosen)]
        return tuple(self.shards[number] for number in chosen)

    def group(self, keys: Iterable[bytes]) -> dict[str, list[int]]:
        """Indices of keys by the id of their primary, each list in the keys' order."""
        if not self._points:
            return {self.primary(b"").id: list(range(len(list(keys))))}
        groups: dict[str, list[int]] = {}
        primary = self.primary
        for index, key in enumerate(keys):
            shard_id = primary(key).id
            found = groups.get(shard_id)
            if found is None:
                groups[shard_id] = [index]
            else:
                found.append(index)
        return groups

    def shares(self) -> dict[str, float]:
        """What part of the key space each shard is the primary of; they add up to 1."""
        if not self._points:
            return {shard.id: 1.0 for shard in self.shards}
        arcs = [0] * len(self.shards)
        before = self._points[-1] - (1 << 64)  # the arc before the first point begins at the last one
        for point, number in zip(self._points, self._owner, strict=True):
            arcs[number] += point - before
            before = point
        return {shard.id: arc / (1 << 64) for shard, arc in zip(self.shards, arcs, strict=True)}

    @property
    def memory_bytes(self) -> int:
        """Bytes of the point arrays."""
        return len(self._points) * self._points.itemsize + len(self._owner) * self._owner.itemsize
