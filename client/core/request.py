"""Arguments as users write them to arguments as shards read them; every refusal names the thing and the way out.

Invariants: what passes here is accepted by every shard (limits are the same); durations become whole milliseconds, at
least one; a bare string where several are expected is refused instead of being read letter by letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from numbers import Real
from random import Random
from typing import Any, NamedTuple

from stratacache.client.buffers import payload_size
from stratacache.client.codec import RAW, encode
from stratacache.client.core.effects import Command
from stratacache.node.errors import LimitError, UsageError

TAG_BYTES_MAX = 1024
TAGS_MAX = 1024
TTL_S_MAX = 10 * 365 * 86400.0
NUMBER: Any = Real  # NumPy's too, of which type checkers know nothing
SCATTER_BYTES_MIN = 32 * 1024
"""From here on a payload is handed to the kernel as it lies, instead of being copied into the command's bytes."""


def distinct_keys(keys: Iterable[Any]) -> list[Any]:
    """The keys without repeats, in order; a single string is refused."""
    if isinstance(keys, str | bytes):
        raise UsageError(f"keys is the single key {keys!r}; give a list of keys")
    return list(dict.fromkeys(keys))


def ttl_ms(ttl: timedelta | float | None, *, jitter: float = 0.0, random: Random | None = None) -> int | None:
    """A time to live in milliseconds, stretched or cut at random by up to `jitter` of itself; None stays None."""
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, timedelta | int | float):
        raise UsageError(f"ttl is {ttl!r}; give a timedelta, seconds, or None for no expiry")
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
    if not seconds > 0:
        raise UsageError(f"ttl is {ttl!r}; it must be above 0, or None for no expiry")
    if seconds > TTL_S_MAX:
        raise LimitError(f"ttl is {ttl!r}, the limit is 10 years; use None for no expiry")
    if jitter and random is not None:
        seconds *= random.uniform(1 - jitter, 1 + jitter)
    return max(1, round(seconds * 1000))


def ttls_ms(ttl: timedelta | float | None, count: int, *, jitter: float, random: Random) -> list[int]:
    """As `ttl_ms` for each of `count` entries by itself, so that a batch does not expire at once; [] for no expiry."""
    return [] if ttl is None else [ttl_ms(ttl, jitter=jitter, random=random) or 0 for _ in range(count)]


def tag_list(tags: Iterable[str]) -> list[bytes]:
    """Distinct tags as bytes, sorted."""
    if isinstance(tags, str | bytes):
        raise UsageError(f"tags is the single string {tags!r}; give a list or a set of tags")
    encoded = set()
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise UsageError(f"tag {tag!r} is not a non-empty string")
        try:
            raw = tag.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"tag {tag!r:.80} is no text that UTF-8 can carry: {error.reason}") from error
        if len(raw) > TAG_BYTES_MAX:
            raise LimitError(f"tag {tag[:40]!r}... has {len(raw)} bytes, the limit is {TAG_BYTES_MAX}")
        encoded.add(raw)
    if len(encoded) > TAGS_MAX:
        raise LimitError(f"an entry has {len(encoded)} tags, the limit is {TAGS_MAX}")
    return sorted(encoded)


def put_options(expires_in_ms: int | None, cost_s: float | None, tags: list[bytes], metadata: bytes = b"") -> Command:
    """The optional part of SC.PUT and SC.MPUT."""
    options: list[Any] = []
    if expires_in_ms is not None:
        options += (b"PX", expires_in_ms)
    if cost_s is not None:
        if not isinstance(cost_s, NUMBER) or not 0 <= cost_s < 1e9:
            raise UsageError(f"cost_s is {cost_s!r}; it is the seconds that computing the value took")
        options += (b"COST", b"%.6g" % cost_s)
    if tags:
        options += (b"TAGS", len(tags), *tags)
    if metadata:
        options += (b"META", metadata)
    return tuple(options)


def encoded_argument(value: Any, codec: str, signing_key: bytes | None) -> tuple[Any, int, int]:
    """A value as an argument of a command, its size and its codec: a large one as buffers that are not copied."""
    if value.__class__ is bytes and codec == "auto" and (size := len(value)) < SCATTER_BYTES_MIN:
        return value, size, RAW
    codec_id, payload = encode(value, codec, signing_key=signing_key)
    size = payload_size(payload)
    if isinstance(payload, bytes):
        return (payload if size < SCATTER_BYTES_MIN else [payload]), size, codec_id
    return (b"".join(payload) if size < SCATTER_BYTES_MIN else list(payload)), size, codec_id


class Payloads(NamedTuple):
    """The payloads of a batch, column by column: arguments of commands, sizes, and codecs with a byte for each."""

    arguments: Sequence[Any]
    sizes: Sequence[int]
    codecs: bytes


def encoded_arguments(values: Sequence[Any], codec: str, signing_key: bytes | None) -> Payloads:
    """`encoded_argument` for each of some values, worked out on all of an ordinary batch of bytes at once."""
    if codec == "auto" and set(map(type, values)) == {bytes}:
        sizes = list(map(len, values))
        if max(sizes) < SCATTER_BYTES_MIN:
            return Payloads(values, sizes, bytes([RAW]) * len(sizes))
    return as_payloads([encoded_argument(value, codec, signing_key) for value in values])


def as_payloads(rows: Sequence[tuple[Any, int, int]]) -> Payloads:
    """What `encoded_argument` has given for each value of a batch, which is not empty."""
    arguments, sizes, codecs = zip(*rows, strict=True)
    return Payloads(arguments, sizes, bytes(codecs))
