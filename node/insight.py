"""What a node learns from its reads: figures by operation and model, access patterns, and who was woken in vain.

The engine tells it of hits in bulk (`drain_hits`), of misses and of puts one by one. At most `NOTES_PER_TICK` keys are
noted between two ticks (20,000 a second): up to there all figures are exact. A node that is asked for more notes only
`NOTES_UNDER_LOAD` until it has less to do, and of what it does not note one hit in eight stands for all in the figures
by operation: at full load its time belongs to the hits. Near caches report their hits each second, and they count here
like others.

Invariants: counters only grow; the number of labels is bounded, what comes later is counted under `other`; seconds
saved are those that were measured: an entry of unknown cost saves none.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from .entry import COST_UNKNOWN_S
from .patterns import AccessPatterns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .entry import Entry
    from .groups import Group

LABELS_MAX: Final = 512
NOTES_PER_TICK: Final = 1024
NOTES_UNDER_LOAD: Final = 256
PATTERNS_SHOWN: Final = 1000
SAMPLED: Final = 8
WOKEN_MAX: Final = 8192
_DIGEST_CHARS: Final = 32
_MODEL: Final = b"model:"
OTHER: Final = "other"


class Tally:
    """What was counted for one operation by one model in one namespace."""

    __slots__ = ("computed", "computed_s", "hits", "model", "namespace", "near_hits", "operation", "saved_s")

    def __init__(self, namespace: str, operation: str, model: str) -> None:
        self.namespace = namespace
        self.operation = operation
        self.model = model
        self.hits = 0
        self.near_hits = 0
        self.saved_s = 0.0
        self.computed = 0
        self.computed_s = 0.0


class Insight:
    """One node's figures and patterns. Owned by the engine, in its thread."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.patterns: AccessPatterns[bytes] = AccessPatterns()
        self.near_hits = 0
        self._tallies: dict[tuple[str, str, str], Tally] = {}
        self._misses: dict[str, int] = {}
        self._notes = self._notes_left = NOTES_PER_TICK
        self._skipped_before = 0  # this tick
        self.woken: dict[bytes, None] = {}
        """Keys that were brought up to L1 and have not been hit there since."""
        self._woken_used: list[bytes] = []
        self._woken_gone: list[bytes] = []
        self._drawn = 0
        self.skipped = 0
        """Accesses that were not noted as patterns because too many keys were read at once."""

    # -- what the engine tells -----------------------------------------------------------------------------------

    def hits(self, log: Sequence[Entry]) -> None:
        """Take note of hits; an entry stands there once for each."""
        if self._notes_left <= 0:
            self._sample(log)
            return
        counted = Counter(log)
        now_s = self._now_ms() // 1000
        note = self.patterns.note
        woken = self.woken
        left = self._notes_left
        for entry, count in counted.items():
            group = entry.page.group
            tally = group.tally or self._label(entry.key, group)
            tally.hits += count
            if entry.cost_s != COST_UNKNOWN_S:
                tally.saved_s += entry.cost_s * count
            if woken and entry.key in woken:
                del woken[entry.key]
                self._woken_used.append(entry.key)
            if left > 0:
                left -= 1
                note(entry.key, now_s, count)
            else:
                self.skipped += count
        self._notes_left = left

    def _sample(self, log: Sequence[Entry]) -> None:
        """Of more hits than are noted one by one, one in eight stands for all: 30 ns a hit instead of 250."""
        if self.woken:
            for entry in log:
                if entry.key in self.woken:
                    del self.woken[entry.key]
                    self._woken_used.append(entry.key)
        count = len(log)
        step = SAMPLED if count >= SAMPLED else 1
        self._drawn += 61  # a stride without a pattern in it
        sample = log[self._drawn % step :: step]
        for entry in sample:
            group = entry.page.group
            tally = group.tally or self._label(entry.key, group)
            tally.hits += step
            if entry.cost_s != COST_UNKNOWN_S:
                tally.saved_s += entry.cost_s * step
        self.skipped += count

    def missed(self, key: bytes) -> None:
        """Take note of a miss: an access like any other."""
        operation = operation_of(key)
        if operation:
            if operation not in self._misses and len(self._misses) >= LABELS_MAX:
                operation = OTHER
            self._misses[operation] = self._misses.get(operation, 0) + 1
        self._note(key, 1)

    def touched(self, key: bytes, entry: Entry | None, count: int) -> None:
        """Take note of hits that a near cache served, whether or not the entry is still in memory here."""
        self.near_hits += count
        if entry is not None:
            group = entry.page.group
            tally = group.tally or self._label(key, group)
            tally.near_hits += count
            if entry.cost_s != COST_UNKNOWN_S:
                tally.saved_s += entry.cost_s * count
        self._note(key, count)

    def computed(self, key: bytes, group: Group, cost_s: float) -> None:
        """Take note of a put whose value took this long to compute."""
        tally = group.tally or self._label(key, group)
        tally.computed += 1
        tally.computed_s += cost_s

    def was_woken(self, key: bytes) -> None:
        """A key was brought up to L1 before it was asked for."""
        if len(self.woken) < WOKEN_MAX:
            self.woken[key] = None

    def left_l1(self, key: bytes) -> None:
        """A key left L1; if it had been woken, that was in vain."""
        if key in self.woken:
            del self.woken[key]
            self._woken_gone.append(key)

    def take_woken(self) -> tuple[list[bytes], list[bytes]]:
        """The woken keys that were hit, and those that left without a hit, since this was asked last."""
        used, gone = self._woken_used, self._woken_gone
        self._woken_used, self._woken_gone = [], []
        return used, gone

    def tick(self) -> None:
        """Allow the next notes; called with the engine's tick."""
        asked = self._notes - self._notes_left + self.skipped - self._skipped_before
        self._skipped_before = self.skipped
        self._notes = self._notes_left = NOTES_PER_TICK if asked <= NOTES_PER_TICK else NOTES_UNDER_LOAD

    def _note(self, key: bytes, count: int) -> None:
        if self._notes_left > 0:
            self._notes_left -= 1
            self.patterns.note(key, self._now_ms() // 1000, count)
        else:
            self.skipped += count

    def _label(self, key: bytes, group: Group) -> Tally:
        model = next((tag[len(_MODEL) :] for tag in group.tags if tag.startswith(_MODEL)), b"")
        labels = (_text(group.namespace.name), operation_of(key), _text(model))
        tally = self._tallies.get(labels)
        if tally is None:
            if len(self._tallies) >= LABELS_MAX:
                labels = (OTHER, OTHER, OTHER)
            tally = self._tallies.setdefault(labels, Tally(*labels))
        group.tally = tally
        return tally

    # -- what others ask -----------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by operation and by model, and how much memory patterns take."""
        operations: dict[str, dict[str, float]] = {}
        models: dict[str, dict[str, float]] = {}
        for tally in self._tallies.values():
            for table, label in ((operations, tally.operation), (models, tally.model)):
                if label:
                    _add(table.setdefault(label, _zeros()), tally)
        for operation, misses in self._misses.items():
            operations.setdefault(operation, _zeros())["misses"] += misses
        return {
            "operations": operations,
            "models": models,
            "patterns": {
                "entries": len(self.patterns),
                "bytes_used": self.patterns.bytes_used,
                "bytes_max": self.patterns.bytes_max,
                "skipped": self.skipped,
            },
        }

    @property
    def saved_s(self) -> float:
        """Seconds that hits saved, near caches' included."""
        return sum(tally.saved_s for tally in self._tallies.values())

    def patterns_dict(self, keys_max: int = PATTERNS_SHOWN) -> dict[str, Any]:
        """The patterns of the keys that were visited last, for people and other languages."""
        shown = {
            key: {
                "count": pattern.count,
                "last_ms": pattern.last_ms,
                "mean_ms": pattern.mean_ms,
                "variance_ms2": pattern.variance_ms2,
                "regular": pattern.regular,
                "next_ms": pattern.next_ms,
            }
            for key, pattern in self.patterns.known(keys_max)
        }
        return {"keys": len(self.patterns), "bytes_used": self.patterns.bytes_used, "patterns": shown}

    def saved_by_namespace(self) -> dict[str, tuple[int, float]]:
        """Namespace -> hits of near caches, and seconds that hits saved."""
        found: dict[str, tuple[int, float]] = {}
        for tally in self._tallies.values():
            near_hits, saved_s = found.get(tally.namespace, (0, 0.0))
            found[tally.namespace] = (near_hits + tally.near_hits, saved_s + tally.saved_s)
        return found


def operation_of(key: bytes) -> str:
    """The operation of a canonical key `[namespace:]operation:digest`; empty for keys of another form."""
    at = key.rfind(b":")
    if len(key) - at - 1 != _DIGEST_CHARS or at <= 0:
        return ""
    return _text(key[key.rfind(b":", 0, at) + 1 : at])


def _zeros() -> dict[str, float]:
    return {"hits": 0, "near_hits": 0, "misses": 0, "computed": 0, "saved_s": 0.0, "computed_s": 0.0}


def _add(figures: dict[str, float], tally: Tally) -> None:
    for name in ("hits", "near_hits", "computed", "saved_s", "computed_s"):
        figures[name] += getattr(tally, name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
