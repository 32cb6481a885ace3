"""The functions that stand in for decorated ones: blocking, asyncio, bound to an instance, around a Ray task.

Invariants: what stands in for a function is a real function (Ray, Serve and `inspect` ask for one), with the original's
name, signature and docstring; a method's stand-in binds `self` for `.key_for`, `.invalidate` and `.refresh` too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from stratacache.client.base import AsyncCache, Cache
from stratacache.client.computation import Computation
from stratacache.client.default import Source
from stratacache.client.recipe import Options, Recipe
from stratacache.client.refreshable import announcer, loader_name
from stratacache.node.errors import CacheError, UnavailableError, UsageError
from stratacache.node.types import MISS

_HANDLES: Final = ("key_for", "invalidate", "refresh", "invalidate_all")


def wrap(function: Any, options: Options, client: Cache | AsyncCache | str | None) -> Any:
    """Put a cache in front of a function, a method, or a function that is a Ray task already."""
    if isinstance(function, classmethod | staticmethod):
        raise UsageError(f"put @cached below @{type(function).__name__}, next to the function")
    if type(function).__module__ == "ray.remote_function" and hasattr(function, "_function"):
        return _ray_task(function, wrap(function._function, options, client))
    if not inspect.isfunction(function):
        raise UsageError(f"@cached takes functions and methods, not {function!r:.80}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{function.__qualname__} is a generator: what it yields can't be kept; return a list")
    blocking = not inspect.iscoroutinefunction(function)
    if not (client is None or isinstance(client, str)) and inspect.iscoroutinefunction(client.get) is blocking:
        raise UsageError(f"{function.__qualname__}: an async function needs an asyncio client, another a blocking one")
    if options.refreshable and not blocking:
        raise UsageError(f"{function.__qualname__}: refreshable=True takes plain functions, not async ones")
    recipe = Recipe(function, options)
    source = Source(client, name=recipe.name, strict=options.strict)
    shell: Shell | AsyncShell
    shell = Shell(recipe, source) if blocking else AsyncShell(recipe, source)
    stand_in = _stand_in(shell, ())
    scope = function.__qualname__.rpartition(".")[0]
    if scope and not scope.endswith("<locals>"):  # the class body that it is defined in
        return CachedMethod(shell, stand_in)
    return stand_in


class Shell:
    """The blocking side of a decorated function."""

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe = recipe
        self.source = source

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False, loader: Any = None) -> Any:
        """The cached or computed result. `loader`: what computes it ahead, announced where it has computed here."""
        recipe, options = self.recipe, self.recipe.options
        key = recipe.key(args, kwargs)
        client = self.source.blocking()
        if client is None:
            return recipe.function(*args, **kwargs)
        computation = Computation(recipe, args, kwargs)
        try:
            result: Any = client.get_or_compute(
                key,
                computation.run,
                ttl=recipe.ttl,
                namespace=options.namespace,
                codec=options.codec,
                refresh=refresh,
            )
        except CacheError as error:
            result = computation.after_failure(error)
        if options.refreshable and computation.value is not MISS:
            self._announce(client, computation, loader)
        known, value = computation.outcome(result)
        if known:
            return value
        if result is MISS or refresh:
            return recipe.function(*args, **kwargs)
        return self.call(args, kwargs, refresh=True)

    def _announce(self, client: Any, computation: Computation, loader: Any) -> None:
        if not hasattr(client, "recompute"):  # a cache inside this process, or of another make: nobody computes ahead
            return
        if loader is None or not computation.refreshable:
            client.count_not_refreshable()
        else:
            announcer.announce(loader_name(self.recipe.loader), loader, {}, client.view.cluster)

    def recompute(self, client: Any, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
        """Compute one call ahead of its readers, unless somebody does; None when it is another key's call."""
        recipe = self.recipe
        if recipe.key(args, kwargs) != key:
            return None
        computation = Computation(recipe, args, kwargs)
        options = recipe.options
        found = client.recompute(key, computation.run, ttl=recipe.ttl, namespace=options.namespace, codec=options.codec)
        return found is not MISS

    def key_for(self, *args: Any, **kwargs: Any) -> str:
        """The key of a call."""
        return self.recipe.key(args, kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> int:
        """Remove one call's result. Raises UnavailableError when there is no cache to remove it from."""
        return self._client().invalidate(self.recipe.key(args, kwargs), namespace=self.recipe.options.namespace)

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Compute one call anew."""
        return self.call(args, kwargs, refresh=True)

    def invalidate_all(self, *_: Any) -> int:
        """Remove every call's result."""
        return self._client().invalidate_tags([self.recipe.all_tag])

    def _client(self) -> Cache:
        client = self.source.blocking()
        if client is None:
            raise UnavailableError(f"{self.recipe.name}: there is no cache to remove its results from")
        return client


class AsyncShell:
    """The asyncio side; the same methods as coroutines."""

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe = recipe
        self.source = source

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, refresh: bool = False) -> Any:
        """As `Shell.call`."""
        recipe, options = self.recipe, self.recipe.options
        key = recipe.key(args, kwargs)
        client = self.source.asyncio()
        if client is None:
            return await recipe.function(*args, **kwargs)
        computation = Computation(recipe, args, kwargs)
        try:
            result: Any = await client.get_or_compute(
                key,
                computation.run_async,
                ttl=recipe.ttl,
                namespace=options.namespace,
                codec=options.codec,
                refresh=refresh,
            )
        except CacheError as error:
            result = computation.after_failure(error)
        known, value = computation.outcome(result)
        if known:
            return value
        if result is MISS or refresh:
            return await recipe.function(*args, **kwargs)
        return await self.call(args, kwargs, refresh=True)

    def key_for(self, *args: Any, **kwargs: Any) -> str:
        """The key of a call."""
        return self.recipe.key(args, kwargs)

    async def invalidate(self, *args: Any, **kwargs: Any) -> int:
        """As `Shell.invalidate`."""
        return await self._client().invalidate(self.recipe.key(args, kwargs), namespace=self.recipe.options.namespace)

    async def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """As `Shell.refresh`."""
        return await self.call(args, kwargs, refresh=True)

    async def invalidate_all(self, *_: Any) -> int:
        """As `Shell.invalidate_all`."""
        return await self._client().invalidate_tags([self.recipe.all_tag])

    def _client(self) -> AsyncCache:
        client = self.source.asyncio()
        if client is None:
            raise UnavailableError(f"{self.recipe.name}: there is no cache to remove its results from")
        return client


class CachedMethod:
    """A decorated function in a class body: binds `self` for calls and for the handles beside them."""

    def __init__(self, shell: Shell | AsyncShell, stand_in: Callable[..., Any]) -> None:
        self._shell = shell
        functools.update_wrapper(self, stand_in)
        self.__wrapped__ = stand_in

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # Through the class it is the plain function: that is where Ray looks for the methods of an actor.
        return self.__wrapped__ if instance is None else _stand_in(self._shell, (instance,))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Reached below @staticmethod, where nothing binds."""
        return self.__wrapped__(*args, **kwargs)


def _stand_in(shell: Shell | AsyncShell, bound: tuple[Any, ...]) -> Any:
    function: Any
    if isinstance(shell, AsyncShell):

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await shell.call(bound + args, kwargs)

        function = call_async
    elif shell.recipe.options.refreshable and not bound:

        def call_refreshable(*args: Any, **kwargs: Any) -> Any:
            return shell.call(args, kwargs, loader=call_refreshable)

        function = call_refreshable
        function.recompute = shell.recompute
    else:

        def call(*args: Any, **kwargs: Any) -> Any:
            return shell.call(bound + args, kwargs)

        function = call
    functools.update_wrapper(function, shell.recipe.function)
    if bound:
        function.__signature__ = shell.recipe.bound_signature
    for handle in _HANDLES:
        setattr(
            function, handle, functools.partial(getattr(shell, handle), *bound) if bound else getattr(shell, handle)
        )
    return function


def _ray_task(task: Any, stand_in: Callable[..., Any]) -> Any:
    """The same Ray task, with the same options, around the stand-in: @cached above @ray.remote."""
    made = type(task)(task._language, stand_in, None, dict(task._default_options))
    for handle in _HANDLES:
        setattr(made, handle, getattr(stand_in, handle))
    return made
