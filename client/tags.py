"""Tags of AI results: the automatic ones, and templates such as `"model:{model}"`.

Invariants: the same call has the same tags in every process; a template names parameters that exist, which is checked
when the function is decorated and not when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from string import Formatter
from typing import Any, Final

from stratacache.client.canonical import canonical_parts
from stratacache.node.errors import EncodingError, UsageError
from stratacache.node.types import MISS

LARGE_INPUT_MIN: Final = 1000
SMALL_INPUT_MAX: Final = 100
_MODEL_NAMES: Final = ("model", "model_type", "model_name")
_MODE_NAMES: Final = ("mode", "processing_mode")


def model_tag(model: object) -> str:
    """The tag of all results of one model."""
    return f"model:{_text(model)}"


def automatic_tags(operation: str, input: Any, parameters: Mapping[str, Any]) -> set[str]:  # noqa: A002
    """What every AI result is tagged with: its operation, its model and mode if named, and very large or small inputs.

    The size of an input is the characters of a text, the bytes of an array or of bytes, and the bytes of the canonical
    encoding of everything else; above 1000 it is a `large_input`, below 100 a `small_input`. An input of MISS has none.
    """
    tags = {operation}
    tags.update(model_tag(parameters[name]) for name in _MODEL_NAMES if _is_name(parameters.get(name)))
    tags.update(f"mode:{_text(parameters[name])}" for name in _MODE_NAMES if _is_name(parameters.get(name)))
    size = input_size(input)
    if size is not None and size > LARGE_INPUT_MIN:
        tags.add("large_input")
    elif size is not None and size < SMALL_INPUT_MAX:
        tags.add("small_input")
    return tags


def input_size(value: Any) -> int | None:
    """How large an input is, exactly and without printing it; None for what can't be encoded."""
    if value is MISS:
        return None
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    try:
        return sum(len(part) for part in canonical_parts(value))
    except EncodingError:
        return None


class TagTemplates:
    """Tags with the call's arguments filled in: `"model:{model}"`, `"user:{request.user}"`."""

    def __init__(self, templates: Iterable[str], parameters: Iterable[str]) -> None:
        if isinstance(templates, str):
            raise UsageError(f"tags={templates!r}: hand in a list of tags")
        known = set(parameters)
        self.templates = tuple(templates)
        self.names: set[str] = set()
        for template in self.templates:
            for _, field, _, _ in Formatter().parse(template):
                name = None if field is None else field.split(".")[0].split("[")[0]
                if name is not None and name not in known:
                    raise UsageError(f"tag {template!r}: there is no parameter {name!r}; there are {sorted(known)}")
                if name is not None:
                    self.names.add(name)

    def fill(self, arguments: Mapping[str, Any]) -> set[str]:
        """The tags of one call. Enum members print as their values. Raises UsageError."""
        shown = {name: _text(value) if isinstance(value, Enum) else value for name, value in arguments.items()}
        filled = set()
        for template in self.templates:
            try:
                filled.add(template.format_map(shown))
            except Exception as error:  # whatever the arguments' own attributes and formats raise
                raise UsageError(f"tag {template!r} can't be filled in: {type(error).__name__}: {error}") from error
        return filled


def _is_name(value: object) -> bool:
    return isinstance(value, str | Enum) and bool(value)


def _text(value: object) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)
