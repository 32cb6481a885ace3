"""Cache keys for AI operations: the same input has the same key in every process and on every machine.

Invariants: distinct inputs have distinct keys (up to a collision of 128 bits of BLAKE2b); the order of a dict or set
does not matter, every byte of an array does; an input that can't be told apart from another is refused with its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from stratacache.client.canonical import canonical_parts
from stratacache.node.errors import LimitError, UsageError
from stratacache.node.types import AIOperation

OPERATION_BYTES_MAX: Final = 200
_PERSON: Final = b"stratacache/k1"  # the version of the canonical encoding: a change of it changes every key
_BUFFERED_MAX: Final = 1 << 16  # below this, one joined update is faster than many small ones


def key_for(operation: AIOperation | str, input: Any, parameters: Mapping[str, Any] | None = None) -> str:  # noqa: A002
    """The key of one AI operation on one input: `"{operation}:{32 hex digits}"`.

    `input` and `parameters` may be plain values, nested containers, dates, paths, enums, dataclasses, attrs and
    pydantic models, NumPy arrays, torch tensors and Arrow tables; their whole content counts. 1, 1.0, True and "1"
    are four inputs. No parameters and empty parameters are the same. Raises EncodingError naming the path of a part
    that can't be encoded (`input['model'].tokenizer`).
    """
    return f"{operation_name(operation)}:{digest(input, parameters or {})}"


def operation_name(operation: AIOperation | str) -> str:
    """The operation as the text that begins a key and tags its entries."""
    name = operation.value if isinstance(operation, AIOperation) else operation
    if not isinstance(name, str) or not name or ":" in name:
        raise UsageError(f"operation {name!r}: hand in an AIOperation or a text without a colon")
    if len(name.encode("utf-8", "surrogatepass")) > OPERATION_BYTES_MAX:
        raise LimitError(f"operation {name[:40]!r}... is longer than {OPERATION_BYTES_MAX} bytes; shorten it")
    return name


def digest(input: Any, parameters: Any = None, *, root: str = "input") -> str:  # noqa: A002
    """The 32 hex digits of a key: BLAKE2b of the canonical encoding of the two values."""
    return digest_before(input, encoded_parameters(parameters), root=root)


def encoded_parameters(parameters: Any) -> bytes:
    """The canonical encoding of what `digest` takes as parameters, for `digest_before`."""
    return b"".join(canonical_parts(parameters, "parameters"))


def digest_before(input: Any, parameters: bytes, *, root: str = "input") -> str:  # noqa: A002
    """As `digest`, with parameters that were encoded before: those of a function are the same for all its calls."""
    hasher = blake2b(digest_size=16, person=_PERSON)
    small: list[Any] = []
    for part in canonical_parts(input, root):
        if len(part) > _BUFFERED_MAX:
            hasher.update(b"".join(small))
            small.clear()
            hasher.update(part)
        else:
            small.append(part)
    small.append(parameters)
    hasher.update(b"".join(small))
    return hasher.hexdigest()
