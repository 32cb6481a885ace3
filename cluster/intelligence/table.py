"""The patterns of the whole cluster: one row a key, whoever has seen it.

Shards hand in what changed since they were asked last. Nearly every key is seen by one source only, so rows are
written in columns, a thousand at a time; a key that several sources have seen (it moved, or a replica answered for it)
is merged from their parts, exactly as node/patterns.py does. A restarted shard is a new source: its counts add to those
of its predecessor.

Invariants: at most `rows_max` keys are held, the least recently visited leave first; a row's statistics are those of
its visits; a part that is handed in twice counts once; only loaders that were registered have a number.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stratacache.cluster.intelligence.slices import PatternSlice
from stratacache.node.patterns import ACCESSES_MIN, VARIATION_MAX, VISITS_KEPT, Pattern

ROWS_MAX: Final = 131_072
ROW_BYTES: Final = 320
"""What one row costs beside its key, columns and tables together."""
_LEAVE_SHARE: Final = 16
PARTS_MAX: Final = 8
_GONE: Final = -1
_NONE: Final = -1
_NEVER_S: Final = np.uint32(0xFFFFFFFF)
_EACH: Final = np.ones(VISITS_KEPT)
"""Times this a row is added up: a product of matrices is several times quicker at it than `sum(axis=1)`."""

_COLUMNS: Final[dict[str, Any]] = {
    "counts": np.uint64,
    "sources": np.int32,
    "expires_ms": np.int64,
    "costs_s": np.float32,
    "sizes": np.uint32,
    "ttls_s": np.uint32,
    "levels": np.uint8,
    "loaders": np.int16,
    "seen": np.uint8,
    "last_s": np.uint32,
    "mean_s": np.float64,
    "variation": np.float64,
    "next_s": np.float64,
    "scored": np.bool_,
    "shared": np.bool_,
    "refreshed_for_s": np.float64,
    "woken_for_s": np.float64,
}
_FORETOLD: Final = ("loaders", "seen", "variation", "mean_s", "ttls_s")


@dataclass(frozen=True)
class Foretold:
    """Predictions that have come true or not: for each, what it was made from, and when the key was really read.

    `late_s` is the first visit after the prediction was made minus the predicted time; infinity when nobody came.
    """

    loaders: NDArray[np.int16]
    seen: NDArray[np.uint8]
    variation: NDArray[np.float64]
    mean_s: NDArray[np.float64]
    ttls_s: NDArray[np.uint32]
    late_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.seen)


NOTHING_FORETOLD: Final = Foretold(
    **{name: np.zeros(0, _COLUMNS[name]) for name in _FORETOLD}, late_s=np.zeros(0, np.float64)
)


class PatternTable:
    """Merged patterns by key, in columns. `registered`: the loaders that can compute; clients name any others too."""

    def __init__(self, rows_max: int = ROWS_MAX, registered: Container[str] = ()) -> None:
        self.rows_max = rows_max
        self._registered = registered
        self.keys: list[bytes | None] = []
        self.loader_names: list[str] = []
        self.source_names: list[str] = []
        # All rows at once: the kernel gives the memory when it is first written, and no step has to copy what is there.
        self.visits = np.zeros((rows_max, VISITS_KEPT), np.uint32)
        self._whole: dict[str, NDArray[Any]] = {name: np.zeros(rows_max, dtype) for name, dtype in _COLUMNS.items()}
        self.columns = {name: column[:0] for name, column in self._whole.items()}
        self._rows: dict[bytes, int] = {}
        self._free: list[int] = []
        self._parts: dict[bytes, dict[int, int]] = {}
        """How often each source has counted a key that several have seen; their visits are united in its row."""

    def __len__(self) -> int:
        return len(self._rows)

    def row_of(self, key: bytes) -> int | None:
        """The row of a key, if it is held."""
        return self._rows.get(key)

    def get(self, key: bytes) -> Pattern | None:
        """The merged pattern of a key."""
        row = self._rows.get(key)
        if row is None:
            return None
        return Pattern(int(self.columns["counts"][row]), tuple(int(visit) for visit in self.visits[row] if visit))

    # -- taking in -----------------------------------------------------------------------------------------------

    def take(self, part: PatternSlice) -> Foretold:
        """Merge a slice; gives the predictions that its visits decide. About 0.6 us a key."""
        source = self._number(self.source_names, part.source)
        rows = self._rows_for(part.keys)
        columns = self.columns
        before = {name: columns[name][rows] for name in ("seen", "variation", "mean_s", "next_s", "last_s", "scored")}
        shared = np.flatnonzero(columns["shared"][rows] | ((before["seen"] > 0) & (columns["sources"][rows] != source)))
        visits, counts = part.visits, part.counts
        if len(shared):
            visits, counts = self._unite(part, source, rows, shared)
        self.visits[rows] = visits
        columns["counts"][rows] = counts
        columns["sources"][rows] = source
        for name in ("expires_ms", "costs_s", "sizes", "ttls_s", "levels"):
            columns[name][rows] = getattr(part, name)
        numbers = np.array([-1, *map(self._loader, part.loader_names)], np.int16)
        columns["loaders"][rows] = loaders = numbers[part.loaders.astype(np.int64) + 1]
        next_s = self._describe(rows, visits)
        columns["scored"][rows] = before["scored"] & (next_s == before["next_s"])
        before["loaders"], before["ttls_s"] = loaders, part.ttls_s
        return self._decided(visits, before)

    @staticmethod
    def _decided(visits: NDArray[np.uint32], before: dict[str, NDArray[Any]]) -> Foretold:
        """Of which rows the first visit since they were last written decides a prediction."""
        made = np.flatnonzero(
            (before["seen"] >= ACCESSES_MIN) & (before["variation"] <= VARIATION_MAX) & ~before["scored"]
        )
        if not len(made):
            return NOTHING_FORETOLD
        visits = visits[made]
        first = np.where(visits > before["last_s"][made, None], visits, _NEVER_S).min(axis=1, initial=_NEVER_S)
        came = first != _NEVER_S
        rows = made[came]
        found = {name: before[name][rows] for name in _FORETOLD}
        return Foretold(**found, late_s=first[came] - before["next_s"][rows])

    def _unite(
        self, part: PatternSlice, source: int, rows: NDArray[np.int64], shared: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Visits and counts of the slice, those of keys that others have seen too merged with theirs."""
        visits, counts = part.visits.copy(), part.counts.copy()
        columns = self.columns
        at_rows = rows[shared]
        columns["shared"][at_rows] = True
        visits[shared] = _newest(np.concatenate([self.visits[at_rows], visits[shared]], axis=1))
        gone = self._earlier_lives(source)
        known = zip(
            shared.tolist(), columns["sources"][at_rows].tolist(), columns["counts"][at_rows].tolist(), strict=True
        )
        for at, before, counted in known:
            parts = self._parts.setdefault(part.keys[at], {before: counted})
            parts[source] = int(counts[at])
            if len(parts) > PARTS_MAX:  # of processes that are long gone: they hand in nothing more
                gone = gone | parts.keys() - {source}
            for one in gone & parts.keys() - {_GONE}:
                parts[_GONE] = parts.get(_GONE, 0) + parts.pop(one)
            counts[at] = sum(parts.values())
        return visits, counts

    def _earlier_lives(self, source: int) -> set[int]:
        """The processes that were the same shard before this one."""
        shard = self.source_names[source].rpartition("/")[0]
        names = self.source_names[:source]
        return {number for number, name in enumerate(names) if name.rpartition("/")[0] == shard}

    def _describe(self, rows: NDArray[np.int64], visits: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Work out mean, variation and next visit; gives the next visits."""
        columns = self.columns
        held = (visits > 0).astype(np.float64)
        seen = held @ _EACH
        last = visits[:, -1].astype(np.float64)
        intervals = np.maximum(seen - 1, 1)
        spans = (visits[:, 1:] - visits[:, :-1]) * held[:, :-1]  # ascending: none is negative
        mean = spans @ _EACH[1:] / intervals
        variance = np.maximum(np.einsum("ij,ij->i", spans, spans) / intervals - mean * mean, 0.0)
        variation = np.divide(np.sqrt(variance), mean, out=np.full(len(mean), np.inf), where=mean > 0)
        next_s = last + mean
        for name, values in (("seen", seen), ("last_s", last), ("mean_s", mean)):
            columns[name][rows] = values
        columns["variation"][rows] = variation
        columns["next_s"][rows] = next_s
        return next_s

    # -- giving out ----------------------------------------------------------------------------------------------

    def due(self, now_s: float, ahead_s: float) -> NDArray[np.int64]:
        """The rows of regular keys whose next visit is predicted from now until `ahead_s` later.

        A prediction counts as due until half an interval after its time.
        """
        columns = self.columns
        next_s = columns["next_s"]
        late_s = now_s - 0.5 * columns["mean_s"]
        chosen = (columns["seen"] >= ACCESSES_MIN) & (columns["variation"] <= VARIATION_MAX)
        return np.flatnonzero(chosen & (next_s >= late_s) & (next_s <= now_s + ahead_s))

    def missed(self, now_s: float) -> Foretold:
        """Predictions on which nobody came until half an interval after; each is given once."""
        columns = self.columns
        made = (columns["seen"] >= ACCESSES_MIN) & (columns["variation"] <= VARIATION_MAX) & ~columns["scored"]
        rows = np.flatnonzero(made & (columns["next_s"] + 0.5 * columns["mean_s"] < now_s))
        columns["scored"][rows] = True
        found = {name: columns[name][rows] for name in _FORETOLD}
        return Foretold(**found, late_s=np.full(len(rows), np.inf))

    # -- rows ----------------------------------------------------------------------------------------------------

    def _loader(self, name: str) -> int:
        return self._number(self.loader_names, name) if name in self._registered else -1

    @staticmethod
    def _number(names: list[str], name: str) -> int:
        try:
            return names.index(name)
        except ValueError:
            names.append(name)
            return len(names) - 1

    def _rows_for(self, keys: list[bytes]) -> NDArray[np.int64]:
        table = self._rows
        rows = np.array(list(map(table.get, keys, repeat(_NONE))), np.int64)
        new = np.flatnonzero(rows == _NONE)
        if len(new) and len(table) + len(new) > self.rows_max:
            self._let_go(len(table) + len(new) - self.rows_max)
            return self._rows_for(keys)
        if len(new):
            rows[new] = self._use([keys[at] for at in new.tolist()])
        return rows

    def _use(self, keys: list[bytes]) -> Sequence[int]:
        """Rows for new keys: such as others have left, then such as were never used."""
        free, used = self._free, len(self.keys)
        again = free[len(free) - min(len(free), len(keys)) :]
        del free[len(free) - len(again) :]
        for row, key in zip(again, keys, strict=False):
            self.keys[row] = key
        self.keys += keys[len(again) :]
        fresh = range(used, len(self.keys))
        if fresh:
            self.columns = {name: column[: len(self.keys)] for name, column in self._whole.items()}
        rows: Sequence[int] = [*again, *fresh] if again else fresh
        self._rows.update(zip(keys, rows, strict=True))
        return rows

    def _let_go(self, count: int) -> None:
        """Forget the least recently visited rows, a sixteenth at once."""
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        count = min(len(rows), max(count, self.rows_max // _LEAVE_SHARE))
        last = self.columns["last_s"][rows]
        chosen = rows if count == len(rows) else rows[np.argpartition(last, count)[:count]]
        for row in chosen.tolist():
            key = self.keys[row]
            assert key is not None
            del self._rows[key]
            self._parts.pop(key, None)
            self.keys[row] = None
        self._free += chosen.tolist()
        self.columns["seen"][chosen] = 0
        self.columns["shared"][chosen] = False
        self.columns["last_s"][chosen] = 0

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        assert len(self._rows) <= self.rows_max
        assert sorted([*self._rows.values(), *self._free]) == list(range(len(self.keys)))
        assert all(self.keys[row] == key for key, row in self._rows.items())
        assert self._parts.keys() <= self._rows.keys()
        assert all(len(column) == len(self.keys) for column in self.columns.values())


def _newest(visits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Of each row the latest visits, each once, in their order; 0 in front where there are fewer."""
    visits.sort(axis=1)
    visits[:, :-1][visits[:, :-1] == visits[:, 1:]] = 0
    visits.sort(axis=1)
    return visits[:, -VISITS_KEPT:]
