"""The error tree: each branch says whose fault it is and what to do.

Invariants: a miss is never an error; every class here survives pickling (errors cross Ray); a message is one line that
names the thing, the limit and the way out.
"""

from __future__ import annotations


class CacheError(Exception):
    """Base of everything that Stratacache raises on purpose."""


class UsageError(CacheError, ValueError):
    """The call was wrong: fix it. Nothing was changed by it."""


class LimitError(UsageError):
    """A key, value, tag or option is past its limit; the message names the limit."""


class EncodingError(UsageError):
    """A value or a key part can't be encoded; the message names its path inside the value."""


class UnavailableError(CacheError):
    """A shard, the cluster or a level can't answer now: retry, or go on without the cache."""


class DeadlineError(UnavailableError):
    """No answer came within the deadline; the outcome on the other side is not known."""


class AccessError(CacheError, PermissionError):
    """The token is missing, wrong, or does not allow this."""


class CorruptionError(CacheError):
    """Stored data failed its checksum or has an unknown format; it was not served."""


class InvalidationIncompleteError(CacheError):
    """An invalidation could not be acknowledged by all that must hold it.

    `missing` names the shards that have neither applied it nor been recorded as owing it. It goes on being retried
    in the background; until then a stale value may still be read from those shards.
    """

    def __init__(self, what: str, missing: tuple[str, ...] = ()) -> None:
        self.what = what
        self.missing = tuple(missing)
        names = ", ".join(self.missing) or "unknown"
        super().__init__(
            f"invalidation of {what} is not complete: no acknowledgement from {names}; it is being retried"
        )

    def __reduce__(self) -> tuple[type[InvalidationIncompleteError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.what, self.missing)
