"""Full keys: one spelling for every key, so that it is stored, routed and listed under one name.

Invariants: `canonical` is idempotent and never makes a key longer; two spellings of one key have one canonical form;
`full_key(*split_key(k)) == k` for every canonical `k`.
"""

from __future__ import annotations

from typing import Final

from .errors import LimitError, UsageError

NAMESPACE_BYTES_MAX: Final = 255
KEY_BYTES_MAX: Final = 64 * 1024
DEFAULT_NAMESPACE: Final = b"default"
_DEFAULT_PREFIX: Final = b"default:"
_COLON_WITHIN: Final = NAMESPACE_BYTES_MAX + 1


def canonical(raw: bytes) -> bytes:
    """Give the shortest form of a raw full key: `default:a` is `a`, unless `a` itself would read as `namespace:key`."""
    if raw.startswith(_DEFAULT_PREFIX):
        rest = raw[8:]
        if rest and rest.find(b":", 0, _COLON_WITHIN) < 0:
            return rest
    return raw


def split_key(key: bytes) -> tuple[bytes, bytes]:
    """Split a canonical key into namespace and key."""
    at = key.find(b":", 0, _COLON_WITHIN)
    if at < 0:
        return DEFAULT_NAMESPACE, key
    return key[:at], key[at + 1 :]


def namespace_of(key: bytes) -> bytes:
    """Namespace of a canonical key."""
    at = key.find(b":", 0, _COLON_WITHIN)
    return DEFAULT_NAMESPACE if at < 0 else key[:at]


def check_namespace(namespace: str | bytes) -> bytes:
    """Give the namespace as bytes; raises UsageError for a colon, LimitError past 255 bytes or when empty."""
    name = namespace.encode() if isinstance(namespace, str) else bytes(namespace)
    if not name:
        raise LimitError("namespace is empty: leave it out for 'default'")
    if len(name) > NAMESPACE_BYTES_MAX:
        raise LimitError(f"namespace has {len(name)} bytes, the limit is {NAMESPACE_BYTES_MAX}: shorten it")
    if b":" in name:
        raise UsageError(f"namespace {name!r} contains a colon: the colon ends the namespace, use another character")
    return name


def full_key(namespace: str | bytes, key: str | bytes, *, key_bytes_max: int = KEY_BYTES_MAX) -> bytes:
    """Join namespace and key into the canonical full key; str is encoded as UTF-8.

    Raises LimitError when the key is empty or the full key is longer than `key_bytes_max`.
    """
    name = check_namespace(namespace)
    raw = key.encode() if isinstance(key, str) else bytes(key)
    if not raw:
        raise LimitError("key is empty: a key has at least one byte")
    short = name == DEFAULT_NAMESPACE and raw.find(b":", 0, _COLON_WITHIN) < 0
    full = raw if short else name + b":" + raw
    if len(full) > key_bytes_max:
        raise LimitError(f"key has {len(full)} bytes, the limit is {key_bytes_max}: hash the long part (see key_for)")
    return full
