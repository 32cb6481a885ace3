"""The four operations as a user would write them: a plain function under `@cached`, tagged with its model.

A worker process loads the models when it first has to compute, as a real pipeline does: a pass that hits everywhere
loads none. `computed` counts the calls that really ran, so that the demo reports recomputation from evidence and not
from the cache's own counters.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from stratacache.client import AIOperation, cached

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from stratacache.cluster.demo.models import Models

NAMESPACE: Final = "demo"

computed: Counter[str] = Counter()  # by model name


class ModelStore:
    """The models of this process: which release to use, and the loaded one."""

    def __init__(self) -> None:
        self._release = ""
        self._load: Callable[[], Models] | None = None
        self._loaded: Models | None = None

    def use(self, release: str, load: Callable[[], Models]) -> None:
        """Compute with this release from now on; `load` is called when it is first needed."""
        if release != self._release:
            self._release, self._load, self._loaded = release, load, None

    def get(self) -> Models:
        """The models in use, loaded now if they are not yet."""
        if self._loaded is None:
            if self._load is None:
                raise RuntimeError("no models in this process: call models.use(release, load) first")
            self._loaded = self._load()
        return self._loaded


models: Final = ModelStore()


@cached(operation=AIOperation.SUMMARIZE, namespace=NAMESPACE, tags=["model:{model}"])
def summarize(text: str, *, model: str) -> str:
    """The text's most central sentences."""
    computed[model] += 1
    return models.get().summarize(text)


@cached(operation=AIOperation.EXTRACT, namespace=NAMESPACE, tags=["model:{model}"])
def extract(text: str, *, model: str) -> list[tuple[str, float]]:
    """The text's key phrases with their scores."""
    computed[model] += 1
    return models.get().extract(text)


@cached(operation=AIOperation.CLASSIFY, namespace=NAMESPACE, tags=["model:{model}"])
def classify(text: str, *, model: str) -> dict[str, Any]:
    """The manual's topic that the text is nearest to."""
    computed[model] += 1
    return models.get().classify(text)


@cached(operation=AIOperation.EMBED, namespace=NAMESPACE, tags=["model:{model}"])
def embed(text: str, *, model: str) -> NDArray[np.float32]:
    """The text's vector."""
    computed[model] += 1
    return models.get().embed(text)


OPERATIONS: Final[dict[AIOperation, Any]] = {
    AIOperation.SUMMARIZE: summarize,
    AIOperation.EXTRACT: extract,
    AIOperation.CLASSIFY: classify,
    AIOperation.EMBED: embed,
}
