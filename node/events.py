"""What the engine tells a listener: the source of pushes to near caches and of CLIENT TRACKING.

Invariants: `seq` grows by one with every call, so a gap is seen; a listener is told before the change is acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .types import RemovalCause


class Listener(Protocol):
    """Hears of every change after which a copy held elsewhere may be out of date.

    `kind` is `keys`, `tags`, `namespace` or `all`; `names` are full keys, tags or the namespace. `cause` is REPLACED
    for puts and changes of expiry (also of a key that was not held: another copy may still exist elsewhere) and
    INVALIDATED for invalidations. Eviction and expiry are not told: a copy elsewhere stays right.
    """

    def changed(self, kind: str, names: Sequence[bytes], cause: RemovalCause, seq: int) -> None:
        """Take note of a change."""
