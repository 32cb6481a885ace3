"""A Ray Serve endpoint: equal requests reach the model once, whichever replica they come to."""

from __future__ import annotations

import ray
from ray import serve

from stratacache.client import AIOperation, cached, connect
from stratacache.cluster import start


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0})
class Translator:
    """Two replicas that share their results through the cache."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.translated = 0

    def __cache_key__(self) -> str:
        """What makes two replicas give the same answer."""
        return self.model

    @cached(operation=AIOperation.TRANSLATE, tags=["language:{language}"])
    async def translate(self, text: str, language: str = "fr") -> str:
        """Cached: for both replicas, and for everybody else who uses this model."""
        return await self.run_model(f"{language}: {text}")

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.02)
    async def run_model(self, prompts: list[str]) -> list[str]:
        """The model sees what is left over, in batches."""
        self.translated += len(prompts)
        return [prompt.upper() for prompt in prompts]

    async def __call__(self, text: str) -> dict[str, object]:
        """One request."""
        return {"text": await self.translate(text), "translated_here": self.translated}


def main() -> None:
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    with start(shards=1), connect() as cache:
        try:
            serve.start(proxy_location="Disabled")  # requests come through the handle here: no HTTP
            endpoint = serve.run(Translator.bind("m2m"), name="translator", route_prefix=None)
            requests = [endpoint.remote(f"sentence {number % 5}") for number in range(40)]
            answers = [request.result(timeout_s=60) for request in requests]
            print(f"{len(answers)} answers, the first: {answers[0]['text']}")
            print(f"translations in the cache: {cache.invalidate_tags(['language:fr'])}")
        finally:
            serve.shutdown()


if __name__ == "__main__":
    main()
