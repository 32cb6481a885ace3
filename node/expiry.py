"""Another expiry for an entry that is there, in memory and on disk.

Invariants: an entry changes its expiry in place and keeps its version, so it is the same value that lives longer or
shorter; readers elsewhere are told as of any change; with write-through the answer comes after the commit.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from .handoff import then
from .types import RemovalCause

if TYPE_CHECKING:
    from .engine import MultiLevelCache
    from .entry import Entry
    from .handoff import Handoff


class Expiry:
    """Changes when entries expire."""

    def __init__(self, node: MultiLevelCache, handoff: Handoff) -> None:
        self._node = node
        self._handoff = handoff

    def change(self, key: bytes, found: Entry | None, expires_ms: int) -> bool | Future[bool]:
        """Give the live entry that was found another expiry; False when none was."""
        node = self._node
        entry = node.residents.find(key) or found
        if found is None or entry is None:
            return False
        entry.expires_ms = expires_ms
        if entry.level is not None:
            entry.page.soonest_ms = min(entry.page.soonest_ms, expires_ms)
            entry.level.policy.on_update(entry)
        node.changed("keys", (key,), RemovalCause.REPLACED)
        if node.l3 is not None and node.l3.takes_changes():
            found.expires_ms = expires_ms
            queued = node.l3.put(found if entry.packed else entry)  # the disk goes by the size of the payload
            if isinstance(queued, Future):
                return self._handoff.settle(then(queued, lambda _: True))
        return True
