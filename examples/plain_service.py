"""A Python service without Ray: an asyncio client of a node that other processes and machines share.

Start a node with `stratacache node --port 6380`, then run this with its address: strata://127.0.0.1:6380
"""

from __future__ import annotations

import asyncio
import sys

from stratacache.client import AIOperation, cached, connect_async

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "strata://127.0.0.1:6380"


class UnknownCustomerError(LookupError):
    """The directory has no such customer; worth remembering for a while."""


class Service:
    """Answers questions about customers with a slow model behind it."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.computed = 0

    def __cache_key__(self) -> str:
        """Two services with the same model give the same answers."""
        return self.model

    @cached(
        operation=AIOperation.CLASSIFY,
        tags=["customer:{customer}"],
        negative=UnknownCustomerError,
        negative_ttl=60,
        client=ADDRESS,
    )
    async def sentiment(self, customer: str, message: str) -> dict[str, float]:
        """How a customer's message sounds."""
        self.computed += 1
        if customer == "nobody":
            raise UnknownCustomerError(customer)
        await asyncio.sleep(0.05)
        return {"positive": message.count("!") / 10, "negative": message.count("?") / 10}


async def main() -> None:
    service = Service("sentiment-2")
    async with connect_async(ADDRESS) as cache:
        await cache.invalidate_tags(["customer:ada", "customer:nobody"])

        # Forty requests at once for two answers: each is computed once.
        requests = [service.sentiment("ada", "great!!!" if number % 2 else "why???") for number in range(40)]
        answers = await asyncio.gather(*requests)
        print(f"{len(answers)} answers, {service.computed} computed")

        for _ in range(3):
            try:
                await service.sentiment("nobody", "hello")
            except UnknownCustomerError:
                continue
        print(f"an unknown customer asked for three times, looked up {service.computed - 2} time(s)")

        # The customer asks to be forgotten: when this returns, nobody reads an answer about her any more.
        removed = await cache.invalidate_tags(["customer:ada"])
        print(f"removed {removed} answers about ada")


if __name__ == "__main__":
    asyncio.run(main())
