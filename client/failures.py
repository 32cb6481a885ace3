"""Exceptions as cached values: what makes negative caching possible without pickling an exception.

Invariants: a payload names a class and carries plain values; it never causes an import. Only a class that the reader
declared (or a subclass of it that is already loaded) is ever raised again.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stratacache.client import codec_msgpack
from stratacache.client.buffers import Buffer, payload_bytes
from stratacache.node.errors import CorruptionError, EncodingError


@dataclass(frozen=True)
class CachedFailure:
    """An exception that a computation raised and that was cached in place of its result."""

    type_name: str
    message: str
    args: tuple[Any, ...] = ()

    @classmethod
    def of(cls, error: BaseException) -> CachedFailure:
        """Describe an exception; arguments that can't be encoded give way to the message."""
        kind = type(error)
        module = "" if kind.__module__ == builtins.__name__ else f"{kind.__module__}."
        try:
            codec_msgpack.pack(error.args)
        except EncodingError:
            return cls(f"{module}{kind.__qualname__}", str(error), (str(error),))
        return cls(f"{module}{kind.__qualname__}", str(error), error.args)

    def revive(self, declared: tuple[type[BaseException], ...]) -> BaseException | None:
        """The exception again, as one of the declared classes or their subclasses; None when it is none of them."""
        for kind in _with_subclasses(declared):
            module = "" if kind.__module__ == builtins.__name__ else f"{kind.__module__}."
            if f"{module}{kind.__qualname__}" == self.type_name:
                try:
                    return kind(*self.args)
                except TypeError:  # a constructor of its own: the class matters more than its arguments
                    error = kind.__new__(kind)
                    error.args = (self.message,)
                    return error
        return None


def _with_subclasses(kinds: tuple[type[BaseException], ...]) -> Iterator[type[BaseException]]:
    seen: set[type[BaseException]] = set()
    waiting = list(reversed(kinds))
    while waiting:
        kind = waiting.pop()
        if kind not in seen:
            seen.add(kind)
            yield kind
            waiting.extend(kind.__subclasses__())


def encode_failure(failure: CachedFailure) -> bytes:
    """`[type name, message, arguments]`; a reader of another language needs the first two."""
    return payload_bytes(codec_msgpack.pack([failure.type_name, failure.message, list(failure.args)], attach=False))


def decode_failure(payload: Buffer) -> CachedFailure:
    """The inverse of `encode_failure`; a list without arguments is as good."""
    fields = codec_msgpack.unpack(payload)
    if not isinstance(fields, list) or len(fields) < 2 or not all(isinstance(text, str) for text in fields[:2]):
        raise CorruptionError("a cached exception is not [type name, message]")
    args = tuple(fields[2]) if len(fields) > 2 and isinstance(fields[2], list) else (fields[1],)
    return CachedFailure(fields[0], fields[1], args)
