"""What may stand behind SC.PUT and SC.MPUT, and the bounds of an expiry.

Each put of a native client comes through here, so it is compiled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from stratacache.node.entry import COST_S_MAX, COST_UNKNOWN_S, NEVER_MS
from stratacache.node.resp.arguments import SYNTAX, count_of
from stratacache.node.resp.replies import CommandError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from stratacache.node.engine import MultiLevelCache

CODEC_MAX: Final = 255

FOREVER_MS: Final = NEVER_MS - 1
"""Latest expiry that is stored; what a client asks beyond it (in 146 million years) is cut to it."""


def kept_ms(expires_ms: int) -> int:
    """An expiry as the engine stores it: positive, and short of "never"."""
    return expires_ms if 0 < expires_ms < NEVER_MS else max(1, min(expires_ms, FOREVER_MS))


class PutOptions:
    """The options of one put, or of a batch of puts."""

    def __init__(self) -> None:
        self.codec = 0
        self.expires_ms = NEVER_MS
        self.each_expires_ms: tuple[int, ...] = ()
        self.cost_s = COST_UNKNOWN_S
        self.tags: tuple[bytes, ...] = ()
        self.metadata = b""
        self.lease: bytes | None = None
        self.each_lease: tuple[bytes, ...] = ()
        self.condition = b""


def parse_put(words: list[bytes], now_ms: int, *, many: bool = False) -> PutOptions:
    """Read the options behind a put; raises CommandError."""
    options = PutOptions()
    at = 0
    end = len(words)
    while at < end:
        word = words[at].upper()
        at += 1
        if not many and (word == b"NX" or word == b"XX") and options.condition in (b"", word):  # noqa: PLR1714 (compiled)
            options.condition = word
            continue
        if at == end:
            raise CommandError(SYNTAX)
        value = words[at]
        at += 1
        if word == b"PX":
            options.expires_ms = kept_ms(now_ms + count_of(value, "PX", 1))
        elif word == b"COST":
            options.cost_s = _cost(value)
        elif word == b"TAGS":
            count = count_of(value, "the number of tags", 0, end - at)
            options.tags = tuple(words[at : at + count])
            at += count
        elif word == b"CODEC" and not many:
            options.codec = count_of(value, "CODEC", 0, CODEC_MAX)
        elif word == b"LEASE" and not many:
            options.lease = value
        elif word == b"META":
            options.metadata = value
        elif word == b"PXS" and many:
            count = count_of(value, "the number of times", 1, end - at)
            options.each_expires_ms = tuple([kept_ms(now_ms + count_of(ms, "PXS", 1)) for ms in words[at : at + count]])
            at += count
        elif word == b"LEASES" and many:
            count = count_of(value, "the number of leases", 1, end - at)
            options.each_lease = tuple(words[at : at + count])
            at += count
        else:
            raise CommandError(SYNTAX)
    return options


def put(engine: MultiLevelCache, key: bytes, payload: bytes, options: PutOptions) -> bool | Future[bool]:
    """`MultiLevelCache.put` with these options."""
    return engine.put(
        key,
        payload,
        expires_ms=options.expires_ms,
        tags=options.tags,
        cost_s=options.cost_s,
        codec=options.codec,
        metadata=options.metadata,
        lease=options.lease,
    )


def _cost(text: bytes) -> float:
    try:
        cost_s = float(text)
    except ValueError:
        cost_s = -1.0
    if not 0 <= cost_s < math.inf:
        raise CommandError("ERR COST must be a number of seconds, 0 or more")
    return min(cost_s, COST_S_MAX)
