"""One call of a decorated function, seen from the cache: runs it, and knows afterwards what became of it.

Why it exists: when `get_or_compute` raises, the decorator must tell the function's own exception (the caller's to see)
from a failure of the cache (nobody's to see, and a result may already be there to hand out).

Invariants: the function runs at most once for one Computation, unless another process or thread computed for it; an
exception that is cached is raised to the caller all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stratacache.client.base import Fill
from stratacache.client.failures import CachedFailure
from stratacache.client.notice import notices
from stratacache.client.recipe import Recipe
from stratacache.client.refreshable import try_recipe
from stratacache.node.errors import CacheError
from stratacache.node.types import MISS


@dataclass(frozen=True)
class Raised:
    """A cached exception on its way to the callers that waited for it in this process."""

    error: Exception


class Computation:
    """Runs the function for one call; `run` or `run_async` is the `compute` of get_or_compute."""

    def __init__(self, recipe: Recipe, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.recipe = recipe
        self.args = args
        self.kwargs = kwargs
        self.value: Any = MISS
        self.error: BaseException | None = None
        self.refreshable = True
        """False once it was seen that the arguments can't be kept."""

    def run(self) -> Fill[Any]:
        """Call the function; declared exceptions become values."""
        try:
            self.value = self.recipe.function(*self.args, **self.kwargs)
        except self.recipe.options.negative as error:
            return self._failed(error)
        except BaseException as error:
            self.error = error
            raise
        return self._filled()

    async def run_async(self) -> Fill[Any]:
        """As `run`, for an async function."""
        try:
            self.value = await self.recipe.function(*self.args, **self.kwargs)
        except self.recipe.options.negative as error:
            return self._failed(error)
        except BaseException as error:
            self.error = error
            raise
        return self._filled()

    def after_failure(self, error: CacheError) -> Any:
        """What to hand out when get_or_compute raised `error`: what was computed, or MISS when nothing was.

        Raises it when it is the function's own, or when the caller asked for errors.
        """
        if error is self.error or self.recipe.options.strict:
            raise error
        name = self.recipe.name
        notices.warn(f"failed {name} {type(error).__name__}", f"{name} runs without its cache: {error}")
        return self.value

    def outcome(self, result: Any) -> tuple[bool, Any]:
        """`(True, value)` of what get_or_compute returned, `(False, None)` when that is no value of this function.

        It is none when nothing was computed, or when it is a cached exception that the function no longer declares.
        Raises the exception that was cached or is being cached.
        """
        if isinstance(result, Raised):
            raise result.error
        if isinstance(result, CachedFailure):
            error = result.revive(self.recipe.options.negative)
            if error is not None:
                raise error
            return False, None
        return result is not MISS, result

    def _tags(self) -> set[str]:
        return self.recipe.tags(self.recipe.bind(self.args, self.kwargs))

    def _filled(self) -> Fill[Any]:
        return Fill(value=self.value, tags=self._tags(), metadata=self._metadata())

    def _metadata(self) -> bytes:
        recipe = self.recipe
        if not recipe.options.refreshable:
            return b""
        kept = try_recipe(recipe.loader, recipe.ttl, [list(self.args), self.kwargs])
        self.refreshable = kept is not None
        return kept or b""

    def _failed(self, error: Exception) -> Fill[Any]:
        self.value = Raised(error)
        options = self.recipe.options
        return Fill(value=self.value, stored=CachedFailure.of(error), ttl=options.negative_ttl, tags=self._tags())
