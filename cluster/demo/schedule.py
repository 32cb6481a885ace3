"""A scheduled step: a short report on some topics every few seconds, whose results expire between two runs.

It runs beside the demo's later passes, in a thread of the driver. What it reads is compared with what the report must
be, and each result says which process computed it: one that another process computed was refreshed ahead of the
schedule, since this one is the only reader.

Invariant: evidence comes from the results themselves, not from the cache's own counters.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from stratacache.client import AIOperation, cached
from stratacache.cluster.demo.corpus import manual_topics
from stratacache.cluster.demo.operations import NAMESPACE

TOPICS: Final = ("class", "exceptions", "for", "import", "try", "with")
PERIOD_S: Final = 3.0
TTL_S: Final = 2.75
RUNS_ENOUGH: Final = 2
"""Four runs to see that the reads are regular, one for the first task to start, and these to profit from it."""
RUNS_MAX: Final = 20
"""On a machine so busy that reads and tasks come late it takes longer; then it has to end all the same."""
WORDS: Final = 5


def count_words(topic: str) -> list[tuple[str, int]]:
    """The most frequent long words of a topic, ties alphabetical."""
    words = Counter(word.strip(".,:;()*`\"'") for word in manual_topics()[topic].lower().split())
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return [item for item in ranked if len(item[0]) > 6][:WORDS]


@cached(operation=AIOperation.ANALYZE, namespace=NAMESPACE, ttl=TTL_S, refreshable=True)
def report_on(topic: str) -> dict[str, Any]:
    """What the manual says most often about a topic, and who counted it."""
    return {"words": [list(item) for item in count_words(topic)], "process": os.getpid()}


@dataclass
class Scheduled:
    """What the step has seen."""

    runs: int = 0
    reads: int = 0
    refreshed_ahead: int = 0
    wrong: int = 0


class Schedule:
    """Runs the step every PERIOD_S in a thread of its own."""

    def __init__(self) -> None:
        self._expected = {topic: [list(item) for item in count_words(topic)] for topic in TOPICS}
        self._found = Scheduled()
        self._stop = threading.Event()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="schedule")

    def begin(self) -> None:
        """Start the schedule."""
        self._thread.start()

    def finish(self) -> Scheduled:
        """Wait until it has run often enough to have been foreseen, then end it."""
        self._enough.wait(timeout=RUNS_MAX * PERIOD_S)
        self.end()
        return self._found

    def end(self) -> None:
        """End it now."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stop.is_set():
            for topic in TOPICS:
                self._read(topic)
            found = self._found
            found.runs += 1
            if found.runs >= RUNS_MAX or found.refreshed_ahead >= RUNS_ENOUGH * len(TOPICS):
                self._enough.set()
            self._stop.wait(max(0.0, begun + found.runs * PERIOD_S - time.monotonic()))

    def _read(self, topic: str) -> None:
        result = report_on(topic)
        self._found.reads += 1
        self._found.wrong += [list(item) for item in result["words"]] != self._expected[topic]
        self._found.refreshed_ahead += result["process"] != os.getpid()
