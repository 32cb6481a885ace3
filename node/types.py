"""The words of the system as types: levels, policies, strategies, operations, causes.

Invariants: values of these enums are part of the wire, of the files on disk and of saved configuration; they are only
ever added to.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Final, NoReturn

from .errors import UsageError


class _Word(Enum):
    """An enum whose members are found by value, or the error names what there is."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        known = ", ".join(str(member.value) for member in cls)
        raise UsageError(f"unknown {cls.__name__} {value!r}: use one of {known}")


class CacheLevel(_Word):
    """Where an entry can be held, fastest first."""

    L1_MEMORY = "l1_memory"
    L2_COMPRESSED = "l2_compressed"
    L3_DISK = "l3_disk"
    L4_DISTRIBUTED = "l4_distributed"


class EvictionPolicy(_Word):
    """Which entry a full level gives up."""

    LRU = "lru"
    LFU = "lfu"
    TTL = "ttl"
    SIZE_BASED = "size_based"
    INTELLIGENT = "intelligent"
    FIFO = "fifo"


class CacheStrategy(_Word):
    """How the cache and the store behind it are kept together."""

    CACHE_ASIDE = "cache_aside"
    WRITE_THROUGH = "write_through"
    WRITE_BEHIND = "write_behind"
    REFRESH_AHEAD = "refresh_ahead"
    READ_THROUGH = "read_through"


class AIOperation(_Word):
    """The kind of work whose result is cached: part of the key, a tag, and the source of the default TTL."""

    ANALYZE = "analyze"
    GENERATE = "generate"
    CLASSIFY = "classify"
    EXTRACT = "extract"
    SUMMARIZE = "summarize"
    TRANSLATE = "translate"
    EMBED = "embed"
    RERANK = "rerank"
    TRANSCRIBE = "transcribe"

    @property
    def default_ttl(self) -> timedelta:
        """How long a result of this operation stays good when the caller says nothing."""
        return _DEFAULT_TTLS.get(self, timedelta(hours=4))


_DEFAULT_TTLS: Final = {
    AIOperation.ANALYZE: timedelta(hours=6),
    AIOperation.GENERATE: timedelta(hours=2),
    AIOperation.CLASSIFY: timedelta(hours=12),
    AIOperation.EXTRACT: timedelta(hours=8),
    AIOperation.SUMMARIZE: timedelta(hours=4),
    AIOperation.TRANSLATE: timedelta(hours=24),
    AIOperation.EMBED: timedelta(hours=24),
}


class RemovalCause(Enum):
    """Every reason why an entry leaves a level."""

    EVICTED = "evicted"  # for space
    EXPIRED = "expired"  # for age
    INVALIDATED = "invalidated"  # asked for
    REPLACED = "replaced"  # a newer put of the same key
    DROPPED = "dropped"  # moved away or untrusted
    CORRUPT = "corrupt"  # failed its checksum


class _Miss(Enum):
    """One-member enum so that `value is MISS` narrows for type checkers and survives pickling."""

    MISS = "miss"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISS"


MISS: Final = _Miss.MISS
"""What a get returns when nothing is cached: never equal to a cached value, not even to a cached None."""

MissType = _Miss
