"""Eviction policies, one leaf module each, and the one place where a name becomes a policy."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UsageError
from ..types import EvictionPolicy
from .base import Policy
from .fifo import FifoPolicy
from .intelligent import IntelligentPolicy
from .lfu import LfuPolicy
from .lru import LruPolicy
from .size_based import SizeBasedPolicy
from .ttl import TtlPolicy

_MAKERS: dict[EvictionPolicy, Callable[[int, int], Policy]] = {
    EvictionPolicy.LRU: lambda _seed, _entries_hint: LruPolicy(),
    EvictionPolicy.LFU: lambda _seed, _entries_hint: LfuPolicy(),
    EvictionPolicy.FIFO: lambda _seed, _entries_hint: FifoPolicy(),
    EvictionPolicy.TTL: lambda _seed, _entries_hint: TtlPolicy(),
    EvictionPolicy.INTELLIGENT: lambda seed, _entries_hint: IntelligentPolicy(seed=seed),
    EvictionPolicy.SIZE_BASED: lambda _seed, _entries_hint: SizeBasedPolicy(),
}


def make_policy(policy: EvictionPolicy, *, seed: int = 0, entries_hint: int = 65536) -> Policy:
    """Make a policy for one level.

    `seed` decides all its random choices; `entries_hint` is about how many entries the level will hold, for policies
    that size tables by it. Raises UsageError for what is no EvictionPolicy.
    """
    maker = _MAKERS.get(policy)
    if maker is None:
        names = ", ".join(sorted(kind.value for kind in _MAKERS))
        raise UsageError(f"unknown eviction policy {policy!r}: use one of {names}")
    return maker(seed, entries_hint)


__all__ = ["Policy", "make_policy"]
