"""placeholder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratacache.client.core.effects import Command, Operation
    from stratacache.client.core.state import Core
    from stratacache.node.errors import CacheError


class NearCache:
    """Near."""

    def fetch(self, core: Core, keys: Sequence[bytes]) -> Operation[tuple[dict[int, Any], dict[int, CacheError]]]:
        """Fetch."""
        raise NotImplementedError

    def own_write(self, keys: Sequence[bytes]) -> None:
        """Write."""

    def own_command(self, command: Command) -> None:
        """Command."""

    def stats(self) -> dict[str, int]:
        """Stats."""
        return {}
