"""The queue of WRITE_BEHIND: on disk, so that a crash of the process loses nothing that was acknowledged.

One LMDB file. `changes` maps an order number to a key's latest change, `orders` a key to its number: a newer change of
a key replaces the one that waits, so the queue holds each key once and is never longer than the set of changed keys.

Invariants: `add` returns after the commit; a change leaves the queue only when it was stored, and only if no newer one
took its place meanwhile; one process owns a queue at a time; entries and bytes are bounded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb
import msgpack

from stratacache.client.codec import decode, encode, payload_bytes
from stratacache.node.errors import LimitError, UnavailableError, UsageError

_GONE: Final = -1  # the codec of a change that deletes
_ROOM: Final = 2  # LMDB keeps the old pages while it writes the new ones
_MAP_BYTES_MIN: Final = 16 << 20


class _Deleted:
    def __repr__(self) -> str:
        return "DELETED"


DELETED: Final = _Deleted()
"""In a change: the key was deleted."""


_OWN = "the queue in {} belongs to the process that opened it"
_OTHERS = "give each process a directory of its own"


@dataclass(frozen=True)
class Change:
    """A change that waits: the key's value, or DELETED."""

    order: int
    key: str
    value: Any


class WriteQueue:
    """Changes on their way to a store, oldest first. Thread-safe.

    `entries_max` and `bytes_max` (encoded values) bound it: `add` past them raises LimitError and changes nothing.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, entries_max: int = 100_000, bytes_max: int = 256 << 20
    ) -> None:
        if entries_max < 1 or bytes_max < 1:
            raise UsageError(f"entries_max={entries_max}, bytes_max={bytes_max}: a queue holds at least one of each")
        self.directory = Path(directory)
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.directory} can't be the directory of a write-behind queue: {error}") from error
        self._owner = (self.directory / "owner.lock").open("a")
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._owner.close()
            raise UnavailableError(
                f"another process writes behind through {self.directory}: give each process a directory of its own"
            ) from None
        size = max(_MAP_BYTES_MIN, bytes_max * _ROOM * 2)
        self._file = lmdb.open(str(self.directory / "queue"), map_size=size, max_dbs=2, mode=0o600)
        self._changes = self._file.open_db(b"changes")
        self._orders = self._file.open_db(b"orders")
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False
        with self._file.begin() as txn:
            self._next = self._last_order(txn) + 1
            rows = txn.cursor(self._changes)
            self._bytes = sum(len(row) for row in rows.iternext(keys=False, values=True))
            self._entries = txn.stat(self._changes)["entries"]

    def add(self, items: Mapping[str, Any]) -> None:
        """Queue values, or DELETED, durably: after this returns they survive a crash.

        Raises EncodingError and LimitError before anything is queued, and UnavailableError when the queue's disk fails.
        """
        self._check_process()
        rows = {key: _pack(key, value) for key, value in items.items()}
        with self._lock:
            try:
                with self._file.begin(write=True) as txn:
                    counted = self._put(txn, rows)
            except lmdb.Error as error:
                raise UnavailableError(f"the write-behind queue in {self.directory} takes nothing: {error}") from error
            self._entries, self._bytes, self._next = counted  # only now: a commit may fail

    def _put(self, txn: Any, rows: Mapping[str, bytes]) -> tuple[int, int, int]:
        entries, used, number = self._entries, self._bytes, self._next
        for key, row in rows.items():
            name = _name(key)
            old = txn.get(name, db=self._orders)
            if old is not None:
                used -= len(txn.pop(old, db=self._changes) or b"")
                entries -= 1
            order = number.to_bytes(8, "big")
            txn.put(order, row, db=self._changes)
            txn.put(name, order, db=self._orders)
            number += 1
            entries += 1
            used += len(row)
        if entries > self.entries_max or used > self.bytes_max:
            raise LimitError(
                f"the write-behind queue would hold {entries} changes and {used} bytes, its limits are "
                f"{self.entries_max} and {self.bytes_max}: the store is too slow or down; try again later"
            )
        return entries, used, number

    def oldest(self, count: int) -> list[Change]:
        """Up to `count` changes in the order in which they came."""
        with self._file.begin() as txn:
            rows = txn.cursor(self._changes)
            return [_unpack(order, row) for _, (order, row) in zip(range(count), rows.iternext(), strict=False)]

    def waiting(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values, or DELETED, of those keys that wait."""
        self._check_process()
        found = {}
        with self._file.begin() as txn:
            for key in keys:
                order = txn.get(_name(key), db=self._orders)
                row = None if order is None else txn.get(order, db=self._changes)
                if order is not None and row is not None:
                    found[key] = _unpack(order, row).value
        return found

    def done(self, changes: Iterable[Change]) -> None:
        """Forget changes that were stored, but for keys that have changed again."""
        with self._lock:
            entries, used = self._entries, self._bytes
            with self._file.begin(write=True) as txn:
                for change in changes:
                    order = change.order.to_bytes(8, "big")
                    row = txn.pop(order, db=self._changes)
                    if row is not None:
                        txn.delete(_name(change.key), order, db=self._orders)
                        entries -= 1
                        used -= len(row)
            self._entries, self._bytes = entries, used

    def __len__(self) -> int:
        return self._entries

    @property
    def bytes_used(self) -> int:
        """Bytes of the encoded changes that wait."""
        return self._bytes

    def close(self) -> None:
        """Let go of the files; what waits stays in them."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            self._file.close()
            self._owner.close()

    def __reduce__(self) -> Any:
        raise UsageError(f"{_OWN.format(self.directory)} and does not travel by pickle: {_OTHERS}")

    def _check_process(self) -> None:
        """LMDB's files may not be used on the other side of a fork, and nobody there would store what waits."""
        if self._closed:
            raise UsageError(f"the write-behind queue in {self.directory} is closed")
        if os.getpid() != self._process:
            raise UnavailableError(f"{_OWN.format(self.directory)}, and this is a forked child of it: {_OTHERS}")

    def _last_order(self, txn: Any) -> int:
        rows = txn.cursor(self._changes)
        return int.from_bytes(rows.key(), "big") if rows.last() else 0


def _name(key: str) -> bytes:
    """A key of at most 511 bytes, LMDB's limit, for a key of any length."""
    return hashlib.blake2b(key.encode(), digest_size=20).digest()


def _pack(key: str, value: Any) -> bytes:
    codec, payload = (_GONE, b"") if value is DELETED else encode(value)
    packed: bytes = msgpack.packb([key, codec, payload_bytes(payload)])
    return packed


def _unpack(order: bytes, row: bytes) -> Change:
    key, codec, payload = msgpack.unpackb(row)
    return Change(int.from_bytes(order, "big"), key, DELETED if codec == _GONE else decode(codec, payload))
