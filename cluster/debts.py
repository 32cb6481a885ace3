"""What suspended shards owe: the invalidations that a serving shard applied while they were away.

Invariants: bounded in number and in bytes; a log that overflowed is not whole and holds nothing, and then the shard it
was kept for drops its content; order is not kept when debts are paid, since nothing is put between them and applying
an invalidation twice only costs misses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stratacache.cluster.messages import Debt, DebtLog

DEBTS_MAX: Final = 100_000
DEBT_BYTES_MAX: Final = 8 << 20


class OpenLog:
    """A debt log while it grows; `since` is the epoch that this shard had prepared when it began."""

    __slots__ = ("_debts", "_size", "since", "whole")

    def __init__(self, since: int) -> None:
        self.since = since
        self.whole = True
        self._debts: dict[Debt, None] = {}
        self._size = 0

    def add(self, debt: Debt) -> None:
        """Record one invalidation; the same one again costs nothing."""
        if not self.whole or debt in self._debts:
            return
        self._debts[debt] = None
        self._size += sum(map(len, debt.names))
        if len(self._debts) > DEBTS_MAX or self._size > DEBT_BYTES_MAX:
            self.whole = False
            self._debts.clear()

    def freeze(self) -> DebtLog:
        """The log as it stands, to be sent."""
        return DebtLog(since=self.since, whole=self.whole, debts=tuple(self._debts))


def merged(debts: Iterable[Debt]) -> list[Debt]:
    """The same debts as few large invalidations: one for all tags, one for all keys, one for each namespace."""
    names: dict[str, dict[bytes, None]] = {}
    for debt in debts:
        if debt.kind == "all":
            return [debt]
        names.setdefault(debt.kind, {}).update(dict.fromkeys(debt.names))
    result = [Debt(kind=kind, names=tuple(names[kind])) for kind in ("keys", "tags") if kind in names]
    return result + [Debt(kind="namespace", names=(name,)) for name in names.get("namespace", ())]
