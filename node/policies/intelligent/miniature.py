"""A cache without values under one score function, over the keys of a sample: what shadows.py compares.

Its rows are a queue, and a row is what stands at the head of it: a full batch of newcomers meets 16 entries, the worst
leave, and the others go to the end. So each entry is visited in turn, as in the cache itself (residents.py).

Invariants: `bytes_held` is the sum of the sizes of all whose bit is set in the sample's `held`, which are those of the
queue and the newcomers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from librt.vecs import append, vec
from mypy_extensions import i32, i64, u8

from .sample import Sample
from .scores import PLACE_MASK, Score

ROW_LENGTH: Final = 16
BATCH_MAX: Final = 8
BATCH_SHARE: Final = 48
"""One newcomer in a batch for so many entries held."""
_QUEUE_MIN: Final = 32


class Miniature:
    """Slots of the sample's keys, in rows and among the newcomers; what the misses cost."""

    __slots__ = ("_bit", "_head", "_length", "_mask", "_newcomers", "_queue", "bytes_held", "lost", "score")

    def __init__(self, score: Score, number: int) -> None:
        self.score = score
        self._bit: i64 = 1 << number
        self._queue = vec[i32]([0] * _QUEUE_MIN)
        self._mask: i64 = _QUEUE_MIN - 1
        self._head: i64 = 0
        self._length: i64 = 0
        self._newcomers = vec[i64]()
        self.bytes_held: i64 = 0
        self.lost = 0.0
        """What misses have cost since this was asked last."""

    def __len__(self) -> int:
        return self._length + len(self._newcomers)

    def __iter__(self) -> Iterator[int]:
        yield from self._slots()
        yield from self._newcomers

    def take(self, sample: Sample, slot: i64, bytes_max: i64, batch: i64, tick: i64) -> None:
        """Hold a key; when as many newcomers as a batch have come, let the worst go until the rest fits."""
        self._newcomers = append(self._newcomers, slot)
        sample.held[slot] = u8(i64(sample.held[slot]) | self._bit)
        self.bytes_held += i64(sample.sizes[slot])
        if len(self._newcomers) >= batch or self.bytes_held > bytes_max + bytes_max // BATCH_SHARE:
            while self.bytes_held > bytes_max:
                self._evict(sample, bytes_max, tick)
            self._push(self._newcomers)
            self._newcomers = vec[i64](capacity=batch)

    def _evict(self, sample: Sample, bytes_max: i64, tick: i64) -> None:
        newcomers = self._newcomers
        new: i64 = len(newcomers)
        taken = min(self._length, ROW_LENGTH)
        slots = vec[i64]([0] * (new + taken))
        stamps = vec[i64]([0] * (new + taken))
        all_stamps, sizes, held = sample.stamps, sample.sizes, sample.held
        queue, head, mask = self._queue, self._head, self._mask
        at: i64 = 0
        while at < new + taken:
            slot = newcomers[at] if at < new else i64(queue[head + at - new & mask])
            slots[at] = slot
            stamps[at] = all_stamps[slot]
            at += 1
        bytes_held, bit = self.bytes_held, self._bit
        for rank in self.score.lowest(stamps, tick, new or 1, new):
            place = rank & PLACE_MASK
            slot = slots[place]
            slots[place] = -1
            held[slot] = u8(i64(held[slot]) ^ bit)
            bytes_held -= i64(sizes[slot])
            if bytes_held <= bytes_max:
                break
        self.bytes_held = bytes_held
        self._newcomers = vec[i64]()
        self._head = head + taken & mask
        self._length -= taken
        self._push(slots)

    def _push(self, slots: vec[i64]) -> None:
        """To the end of the queue; what is -1 is none."""
        if self._length + len(slots) > self._mask:
            self._queue_up(self._slots(), 2 * (self._length + len(slots)))
        queue, mask = self._queue, self._mask
        end = self._head + self._length
        for slot in slots:
            if slot >= 0:
                queue[end & mask] = i32(slot)
                end += 1
        self._length = end - self._head

    def _slots(self) -> vec[i64]:
        slots = vec[i64](capacity=self._length)
        at: i64 = 0
        while at < self._length:
            slots = append(slots, i64(self._queue[self._head + at & self._mask]))
            at += 1
        return slots

    def _queue_up(self, slots: vec[i64], room: i64) -> None:
        length: i64 = _QUEUE_MIN
        while length < room:
            length *= 2
        queue = vec[i32](capacity=length)
        for slot in slots:
            queue = append(queue, i32(slot))
        self._length = len(queue)
        while len(queue) < length:
            queue = append(queue, 0)
        self._queue = queue
        self._mask = length - 1
        self._head = 0

    def move(self, sample: Sample, moved: vec[i64]) -> None:
        """Follow the keys to their new slots, and give up those that have none any more (see `Sample.shrink`)."""
        slots = vec[i64]([moved[slot] for slot in self._slots() if moved[slot] >= 0])
        self._queue_up(slots, len(slots))
        self._newcomers = vec[i64]([moved[slot] for slot in self._newcomers if moved[slot] >= 0])
        self.bytes_held = sum([i64(sample.sizes[slot]) for slot in self])
