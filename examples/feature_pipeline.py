"""Ray tasks and an actor that share features of images: arrays as arguments and as results.

Arrays are keyed by dtype, shape and every byte, and come back as read-only views of what was received.
"""

from __future__ import annotations

import numpy as np
import ray

from stratacache.client import cached, connect
from stratacache.cluster import start

Image = np.ndarray


@cached(operation="features", tags=["bins:{bins}"])
def features(image: Image, *, bins: int = 32) -> dict[str, np.ndarray]:
    """Something slow over an image: gradients, a histogram and a spectrum."""
    gradients = np.stack(np.gradient(image.astype("<f4")))
    return {
        "gradients": gradients,
        "histogram": np.histogram(image, bins=bins)[0],
        "spectrum": np.abs(np.fft.rfft2(image)).astype("<f4"),
    }


@ray.remote
def describe(image: Image) -> float:
    """A task that needs the features."""
    return float(features(image)["gradients"].std())


@ray.remote(num_cpus=0)
class Classifier:
    """An actor that needs them too, with a cached method of its own."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __cache_key__(self) -> float:
        return self.threshold

    @cached(operation="classify")
    def classify(self, image: Image) -> bool:
        """Whether one shade dominates."""
        return bool(features(image)["histogram"].max() > self.threshold)


def main() -> None:
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    random = np.random.default_rng(7)
    images = [random.integers(0, 255, (128, 128), dtype=np.uint8) for _ in range(8)]
    with start(shards=1), connect() as cache:
        first = ray.get([describe.remote(image) for image in images])
        again = ray.get([describe.remote(image) for image in images])
        assert first == again
        classifier = Classifier.remote(600)
        print(ray.get([classifier.classify.remote(image) for image in images]))

        mine = features(images[0])  # this process reads what a worker computed
        assert not mine["gradients"].flags.writeable
        shards = cache.stats()["shards"].values()
        print(f"entries: {sum(shard['entries'] for shard in shards)}, hits: {sum(shard['hits'] for shard in shards)}")
        print(f"removed features of 32 bins: {cache.invalidate_tags(['bins:32'])}")


if __name__ == "__main__":
    main()
