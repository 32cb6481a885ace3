"""How a call becomes a cache entry: its key, its tags, its time to live. Pure decisions; decorator.py acts on them.

Invariants: two spellings of one call (positional, by keyword, defaults left out) have one key; two functions never
share a key, and neither do two versions of one; everything here can be pickled into a Ray task.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from hashlib import blake2b
from typing import Any, Final

from stratacache.client.base import Ttl
from stratacache.client.keys import digest, digest_before, encoded_parameters, operation_name
from stratacache.client.tags import TagTemplates, automatic_tags
from stratacache.node.errors import EncodingError, UsageError
from stratacache.node.types import MISS, AIOperation, MissType

DEFAULT_TTL: Final = timedelta(hours=4)
"""For operations that are no AIOperation."""

LAMBDA: Final = "<lambda>"
_KINDS: Final = inspect.Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `@cached` takes, apart from the client; see there."""

    operation: AIOperation | str | None = None
    ttl: Ttl | MissType = MISS
    tags: tuple[str, ...] = ()
    namespace: str | None = None
    ignore: tuple[str, ...] = ()
    key: Callable[..., Any] | None = None
    version: str | int = ""
    fingerprint: bool = False
    negative: tuple[type[Exception], ...] = ()
    negative_ttl: Ttl = timedelta(minutes=1)
    codec: str = "auto"
    automatic_tags: bool = True
    strict: bool = False
    refreshable: bool = False


class Recipe:
    """Key, tags and time to live of every call of one function."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        self.function = function
        self.options = options
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.signature = inspect.signature(function)
        self.operation = operation_name(options.operation or function.__name__)
        self.ttl = default_ttl(options.operation) if options.ttl is MISS else options.ttl
        parameters = list(self.signature.parameters)
        unknown = set(options.ignore) - set(parameters)
        if unknown:
            raise UsageError(f"ignore={sorted(unknown)}: {self.name} has no such parameter; it has {parameters}")
        self._templates = TagTemplates(options.tags, parameters)
        self._ignored = frozenset(options.ignore)
        self.input_name = next((name for name in parameters if name not in {"self", "cls"}), "")
        self._identity = {"function": self.name, "version": options.version}
        if options.fingerprint or function.__name__ == LAMBDA:  # two lambdas of one scope have one name
            self._identity["fingerprint"] = source_fingerprint(function)
        self._encoded_identity = encoded_parameters(self._identity)
        self._captured = captured_names(function)
        self._simple = all(
            parameter.kind in {_KINDS.POSITIONAL_OR_KEYWORD, _KINDS.KEYWORD_ONLY}
            for parameter in self.signature.parameters.values()
        )
        self._positional = [
            name for name, each in self.signature.parameters.items() if each.kind is _KINDS.POSITIONAL_OR_KEYWORD
        ]
        self._defaults = {
            name: each.default for name, each in self.signature.parameters.items() if each.default is not _KINDS.empty
        }

    @functools.cached_property
    def bound_signature(self) -> inspect.Signature:
        """The signature of a method without its first parameter."""
        return self.signature.replace(parameters=list(self.signature.parameters.values())[1:])

    @property
    def all_tag(self) -> str:
        """The tag that every entry of this function has."""
        return f"fn:{self.name}"

    @property
    def loader(self) -> str:
        """The name under which this function computes values ahead."""
        return f"fn:{self.name}"

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter name -> argument, defaults applied. Raises the TypeError that the call itself would raise."""
        if self._simple and len(args) <= len(self._positional):  # much faster than Signature.bind
            arguments = {**self._defaults, **dict(zip(self._positional, args, strict=False)), **kwargs}
            # As many names as parameters, all of them known, none given twice: the call is as its signature says.
            if (
                len(arguments) == len(self.signature.parameters)
                and kwargs.keys() <= self.signature.parameters.keys()
                and kwargs.keys().isdisjoint(self._positional[: len(args)])
            ):
                return arguments
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The key of a call. Raises EncodingError that names the argument and the path inside it."""
        arguments = self.bind(args, kwargs)
        if self.options.key is not None:
            return self.key_of({"key": self.options.key(*args, **kwargs)})
        return self.key_of(arguments)

    def key_of(self, arguments: Mapping[str, Any]) -> str:
        """The key of bound arguments, those named in `ignore` left out."""
        kept = {name: item for name, item in arguments.items() if name not in self._ignored}
        captured = self.captured() if self._captured else None
        identity = encoded_parameters({**self._identity, "captured": captured}) if captured else self._encoded_identity
        try:
            return f"{self.operation}:{digest_before(kept, identity)}"
        except EncodingError as error:
            raise EncodingError(f"{self.name}: {_argument_path(str(error))}") from None

    def captured(self) -> dict[str, Any]:
        """Plain values that the function has from an enclosing function: inputs that no argument shows.

        `def embedder(model): @cached ... def embed(text): return call(model, text)` makes one function for each model,
        all of one name. Without this they would share their entries. Other captured objects, and globals, are not
        looked into: give them a `version=`.
        """
        found = {}
        cells = dict(zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=False))
        for name in self._captured:
            try:
                value = cells[name].cell_contents
            except ValueError:  # not assigned yet
                continue
            if value is None or isinstance(value, str | bytes | int | float | complex | Enum):
                found[name] = value
        return found

    def tags_mention(self, name: str) -> bool:
        """Whether a tag template is filled in from this parameter."""
        return name in self._templates.names

    def tags(self, arguments: Mapping[str, Any]) -> set[str]:
        """The tags of a call: automatic ones, the templates filled in, and one for the whole function."""
        tags = self._templates.fill(arguments)
        tags.add(self.all_tag)
        if self.options.automatic_tags:
            operation = self.operation if self.options.operation is not None else self.all_tag
            tags |= automatic_tags(operation, arguments.get(self.input_name, MISS), arguments)
        return tags


def default_ttl(operation: AIOperation | str | None) -> timedelta:
    """How long results of an operation stay good when nobody says: per AIOperation, else four hours."""
    if isinstance(operation, str):
        operation = next((known for known in AIOperation if known.value == operation), None)
    return DEFAULT_TTL if operation is None else operation.default_ttl


def source_fingerprint(function: Callable[..., Any]) -> str:
    """32 hex digits that change with the function's code, not with its comments, layout or decorators.

    Taken once, where the function is decorated, so that workers which got it by pickle agree. Functions it calls are
    not looked into: give them a `version=`.
    """
    node = _source_node(function)
    text = digest(_code_content(function.__code__)) if node is None else ast.unparse(node)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _source_node(function: Callable[..., Any]) -> ast.stmt | None:
    """The function's syntax tree without decorators; None for a lambda, or when there is no source file."""
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    node.decorator_list = []
    return node


def _code_content(code: Any) -> list[Any]:
    constants = [_code_content(each) if inspect.iscode(each) else each for each in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants]


def captured_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The variables of an enclosing function that this one reads and does not itself assign."""
    code = function.__code__
    written = {step.argval for step in dis.get_instructions(function) if step.opname in {"STORE_DEREF", "DELETE_DEREF"}}
    written -= set(code.co_cellvars)  # what is assigned is a comprehension's variable of the same name (Python 3.12)
    return tuple(name for name in code.co_freevars if name not in written)


def _argument_path(message: str) -> str:
    """`input['text'][3]: ...` -> `argument 'text'[3]: ...`."""
    prefix = "input["
    if not message.startswith(prefix):
        return message
    name, bracket, rest = message[len(prefix) :].partition("]")
    return f"argument {name}{rest}" if bracket else message
