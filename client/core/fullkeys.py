"""Keys as callers write them to canonical full keys, the usual ones cheaply; `node.keys.full_key` decides the others.

Invariants: what is returned equals `full_key` for every key; what is no text or bytes is refused, never read as
something else (`bytes(5)` would be five zero bytes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from stratacache.node.errors import UsageError
from stratacache.node.keys import KEY_BYTES_MAX, NAMESPACE_BYTES_MAX, full_key

SURELY_SHORT_BYTES: Final = KEY_BYTES_MAX - NAMESPACE_BYTES_MAX - 1
COLON_WITHIN: Final = NAMESPACE_BYTES_MAX + 1  # a colon further back ends no namespace
_COLON: Final = ord(":")  # a byte is found by its number at once; Python looks for bytes by way of an exception
_BUT_COLON_AND_LINE: Final = bytes(byte for byte in range(256) if byte not in b":\n")


def prefix_of(namespace: str) -> bytes:
    """What stands before a key of this namespace; nothing for the default one."""
    return b"" if namespace == "default" else namespace.encode() + b":"


def one_full(key: str | bytes, prefix: bytes) -> bytes | None:
    """The full key of an ordinary key; None for one that `careful_full` must look at."""
    if type(key) is str:
        try:
            raw = key.encode()
        except UnicodeEncodeError:
            return None
    else:
        raw = key  # type: ignore[assignment]  # bytes, or refused below
    if type(raw) is not bytes or not 0 < len(raw) < SURELY_SHORT_BYTES:
        return None
    if prefix:
        return prefix + raw
    return raw if raw.find(b":", 0, COLON_WITHIN) < 0 else b"default:" + raw


def text_of(namespace: Any) -> bytes:
    """A namespace in bytes; raises UsageError for what is no text (`bytes(5)` would be five zero bytes)."""
    if not isinstance(namespace, str | bytes):
        raise UsageError(f"namespace {namespace!r:.80} is a {type(namespace).__name__}; give text")
    try:
        return namespace.encode() if isinstance(namespace, str) else namespace
    except UnicodeEncodeError as error:
        raise UsageError(f"namespace {namespace!r:.80} is no text that UTF-8 can carry: {error.reason}") from error


def careful_full(key: Any, namespace: str) -> bytes:
    """The full key of any key; raises UsageError or LimitError for what is none."""
    if not isinstance(key, str | bytes | bytearray | memoryview):
        raise UsageError(f"key {key!r:.80} is a {type(key).__name__}; give text or bytes, or see key_for")
    try:
        return full_key(text_of(namespace), key if isinstance(key, str) else bytes(key))
    except UnicodeEncodeError as error:
        raise UsageError(f"key {key!r:.80} is no text that UTF-8 can carry: {error.reason}") from error


def common_prefix(text: bytes, count: int, prefix: bytes) -> bytes | None:
    """What stands before each of `count` keys, given in lines, in its full key; None where they differ in that.

    `prefix` is that of their namespace. A key that is empty or too long is not seen here.
    """
    marks = text.translate(None, _BUT_COLON_AND_LINE)
    if marks.count(b"\n") != count - 1:
        return None
    if prefix or b":" not in marks:
        return prefix
    if marks[:1] == b":" == marks[-1:] and b"\n\n" not in marks:
        return b"default:"  # a colon in each of them: otherwise each would be taken for a namespace and a key
    return None


def all_full(keys: Sequence[Any], prefix: bytes) -> list[bytes] | None:
    """The full keys of an ordinary batch of text, worked out on all of it at once; None for any other batch."""
    try:
        text = "\n".join(keys).encode()
    except (TypeError, UnicodeEncodeError):
        return None
    common = common_prefix(text, len(keys), prefix)
    if common:
        fulls = (common + text.replace(b"\n", b"\n" + common)).split(b"\n")
    else:
        fulls = text.split(b"\n")
        if len(fulls) != len(keys):
            return None
        if common is None:
            fulls = [b"default:" + raw if _COLON in raw else raw for raw in fulls]
    lengths = set(map(len, fulls))
    return fulls if len(common or b"") < min(lengths) and max(lengths) <= COLON_WITHIN else None
