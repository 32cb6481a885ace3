"""`@cached_batch`: a function from many inputs to as many outputs, called with the distinct missing inputs only.

Models are fed in batches, and batches overlap: each input is an entry of its own, all of a call's entries are asked for
in one round trip to each shard, and what is missing is computed in one call.

Invariants: outputs stand in the order of the inputs, repeated ones included; an input that several callers miss at the
same time is computed by one of them; as with `@cached`, a cache that fails never keeps the function from running.
"""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from stratacache.client.base import AsyncCache, Cache, Fill, Ttl
from stratacache.client.default import Source
from stratacache.client.notice import notices
from stratacache.client.recipe import Options, Recipe
from stratacache.node.errors import CacheError, UsageError
from stratacache.node.types import MISS, AIOperation, MissType

P = ParamSpec("P")
R = TypeVar("R")


def cached_batch(
    *,
    operation: AIOperation | str | None = None,
    ttl: Ttl | MissType = MISS,
    tags: Iterable[str] = (),
    namespace: str | None = None,
    ignore: Iterable[str] = (),
    version: str | int = "",
    fingerprint: bool = False,
    codec: str = "auto",
    automatic_tags: bool = True,
    strict: bool = False,
    client: Cache | AsyncCache | str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Cache a function whose first parameter (`self` aside) is a sequence, and which returns one output for each item.

    The decorated function returns a list. The options are those of `cached`; `tags` are the same for all items of a
    call unless they mention the batch parameter, which then stands for one item. Other arguments are part of every
    item's key. Raises EncodingError naming an item that has no key, and UsageError when the function returns another
    number of outputs than it was given inputs.
    """
    options = Options(
        operation=operation,
        ttl=ttl,
        tags=tuple(tags),
        namespace=namespace,
        ignore=tuple(ignore),
        version=version,
        fingerprint=fingerprint,
        codec=codec,
        automatic_tags=automatic_tags,
        strict=strict,
    )

    return functools.partial(_wrap, options=options, client=client)


def _wrap(function: Any, *, options: Options, client: Cache | AsyncCache | str | None) -> Any:
    if not inspect.isfunction(function):
        raise UsageError(f"@cached_batch takes functions and methods, not {function!r:.80}")
    recipe = Recipe(function, options)
    if not recipe.input_name:
        raise UsageError(f"{recipe.name} has no parameter that could be the batch")
    source = Source(client, name=recipe.name, strict=options.strict)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> list[Any]:
            batch = BatchCall(recipe, recipe.bind(args, kwargs))
            found = source.asyncio()
            if found is not None and batch.keys:
                try:
                    batch.found = await found.get_or_compute_many(
                        batch.keys, batch.compute_async, **batch.store_options()
                    )
                except CacheError as error:
                    batch.after_failure(error)
            if batch.rest():
                await batch.run_async(batch.rest())
            return batch.outputs()

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> list[Any]:
        batch = BatchCall(recipe, recipe.bind(args, kwargs))
        found = source.blocking()
        if found is not None and batch.keys:
            try:
                batch.found = found.get_or_compute_many(batch.keys, batch.compute, **batch.store_options())
            except CacheError as error:
                batch.after_failure(error)
        if batch.rest():
            batch.run(batch.rest())
        return batch.outputs()

    return call


class BatchCall:
    """One call: its items' keys, what was found, what was computed."""

    def __init__(self, recipe: Recipe, arguments: dict[str, Any]) -> None:
        self.recipe = recipe
        self.arguments = arguments
        items = list(arguments[recipe.input_name])
        self.keys = [recipe.key_of({**arguments, recipe.input_name: item}) for item in items]
        self.items = dict(zip(self.keys, items, strict=True))
        self.found: Mapping[str, Any] = {}
        self.computed: dict[str, Any] = {}
        self.error: BaseException | None = None
        self._tags_by_item = recipe.tags_mention(recipe.input_name)

    def store_options(self) -> dict[str, Any]:
        """What every entry of the call is stored with."""
        options = self.recipe.options
        shared = {name: value for name, value in self.arguments.items() if name != self.recipe.input_name}
        return {
            "ttl": self.recipe.ttl,
            "tags": () if self._tags_by_item else self.recipe.tags(shared),
            "namespace": options.namespace,
            "codec": options.codec,
        }

    def compute(self, keys: list[str]) -> list[Any]:
        """Call the function with the items of these keys; what is to be stored."""
        self.run(keys)
        return self._fills(keys)

    async def compute_async(self, keys: list[str]) -> list[Any]:
        """As `compute`, for an async function."""
        await self.run_async(keys)
        return self._fills(keys)

    def run(self, keys: list[str]) -> None:
        """Call the function with the items of these keys, and keep its outputs."""
        try:
            call = self._call(keys)
            self._take(keys, self.recipe.function(*call.args, **call.kwargs))
        except BaseException as error:
            self.error = error
            raise

    async def run_async(self, keys: list[str]) -> None:
        """As `run`, for an async function."""
        try:
            call = self._call(keys)
            self._take(keys, await self.recipe.function(*call.args, **call.kwargs))
        except BaseException as error:
            self.error = error
            raise

    def after_failure(self, error: CacheError) -> None:
        """Go on without the cache, unless the error is the function's own or the caller asked for errors."""
        if error is self.error or self.recipe.options.strict:
            raise error
        name = self.recipe.name
        notices.warn(f"failed {name} {type(error).__name__}", f"{name} runs without its cache: {error}")

    def rest(self) -> list[str]:
        """Distinct keys that have no output yet."""
        return [key for key in self.items if key not in self.found and key not in self.computed]

    def outputs(self) -> list[Any]:
        """One output for each input, in their order."""
        return [self.found[key] if key in self.found else self.computed[key] for key in self.keys]

    def _call(self, keys: list[str]) -> inspect.BoundArguments:
        items = [self.items[key] for key in keys]
        return inspect.BoundArguments(
            self.recipe.signature, OrderedDict({**self.arguments, self.recipe.input_name: items})
        )

    def _take(self, keys: list[str], outputs: Any) -> None:
        values = list(outputs)
        if len(values) != len(keys):
            raise UsageError(f"{self.recipe.name} returned {len(values)} outputs for {len(keys)} inputs")
        self.computed.update(zip(keys, values, strict=True))

    def _fills(self, keys: list[str]) -> list[Any]:
        values = [self.computed[key] for key in keys]
        if not self._tags_by_item:
            return values
        name = self.recipe.input_name
        return [
            Fill(value=value, tags=self.recipe.tags({**self.arguments, name: self.items[key]}))
            for key, value in zip(keys, values, strict=True)
        ]
