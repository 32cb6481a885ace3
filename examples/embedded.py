"""A notebook or script without Ray and without a server: the cache lives in this process and on its disk.

Run it twice with the same directory: the second run computes nothing.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from stratacache.client import AIOperation, cached, connect

DIRECTORY = sys.argv[1] if len(sys.argv) > 1 else "./cache"


def main() -> None:
    with connect(f"local:{DIRECTORY}") as cache:
        computed = []

        @cached(operation=AIOperation.SUMMARIZE, ttl=timedelta(days=7), client=cache)
        def summarise(text: str, *, words: int = 5) -> dict[str, object]:
            computed.append(text)
            time.sleep(0.02)  # a model would think here
            return {"summary": " ".join(text.split()[:words]), "length": len(text)}

        texts = [f"chapter {number} of a book that is read more than once" for number in range(10)]
        for text in texts * 3:
            summarise(text)
        summarise(texts[0], words=3)  # another argument, another entry

        figures = cache.stats()["client"]
        print(f"{figures['hits']} hits, {figures['misses']} misses, {len(computed)} computed")


if __name__ == "__main__":
    main()
