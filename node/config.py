"""What a node is told at its start; checked in one place before anything is opened.

Invariants: every number has its unit in its name; `validate` raises one-line errors that name the option, the limit
and the way out; nothing here reads the environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from .entry import ENTRY_BYTES
from .errors import UsageError
from .keys import KEY_BYTES_MAX
from .types import EvictionPolicy

if TYPE_CHECKING:
    from pathlib import Path

MIB: Final = 1024 * 1024
VALUE_BYTES_LIMIT: Final = 512 * MIB


class WriteMode(Enum):
    """When a put is acknowledged with regard to L3."""

    WRITE_THROUGH = "write_through"  # after the commit
    WRITE_BEHIND = "write_behind"  # after L1; the disk follows after `flush_after_ms`


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Budgets, limits and places of one node.

    A level with a budget of 0 bytes is off; L3 also needs `data_dir`. `entries_max` of None means no limit in entries.
    """

    l1_bytes_max: int = 256 * MIB
    l2_bytes_max: int = 0
    l3_bytes_max: int = 0
    l1_entries_max: int | None = None
    l2_entries_max: int | None = None
    policy: EvictionPolicy = EvictionPolicy.LRU
    l2_policy: EvictionPolicy = EvictionPolicy.LRU
    seed: int = 0
    data_dir: Path | None = None
    l3_write_mode: WriteMode = WriteMode.WRITE_BEHIND
    l3_rebuild: bool = False
    """Set aside a data directory of an unknown format and begin a fresh one, where it would be refused otherwise."""
    l3_queue_bytes_max: int = 64 * MIB
    flush_after_ms: int = 2000
    """With write-behind, how long a changed key waits for others of its value before it goes to the disk."""
    key_bytes_max: int = KEY_BYTES_MAX
    value_bytes_max: int = 64 * MIB
    leases_max: int = 65536

    def validate(self) -> None:
        """Check all options together; raises UsageError."""
        _check_member("policy", self.policy, EvictionPolicy)
        _check_member("l2_policy", self.l2_policy, EvictionPolicy)
        _check_member("l3_write_mode", self.l3_write_mode, WriteMode)
        smallest = ENTRY_BYTES + 1
        for name in ("l1_bytes_max", "l2_bytes_max", "l3_bytes_max"):
            value = getattr(self, name)
            if value < 0 or ((name == "l1_bytes_max" or value) and value < smallest):
                raise UsageError(f"{name}={value} can't hold one entry: give at least {smallest} bytes")
        for name in ("l1_entries_max", "l2_entries_max"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} can't hold one entry: give at least 1, or None for no limit")
        if not 1 <= self.key_bytes_max <= KEY_BYTES_MAX:
            raise UsageError(f"key_bytes_max={self.key_bytes_max} is outside 1..{KEY_BYTES_MAX}")
        if not 1 <= self.value_bytes_max <= VALUE_BYTES_LIMIT:
            raise UsageError(f"value_bytes_max={self.value_bytes_max} is outside 1..{VALUE_BYTES_LIMIT}")
        if self.l3_bytes_max and self.data_dir is None:
            raise UsageError("l3_bytes_max is set but data_dir is not: name a directory, or set l3_bytes_max=0")
        if self.l3_bytes_max and self.l3_bytes_max < MIB:
            raise UsageError(f"l3_bytes_max={self.l3_bytes_max} is too small for a database: give at least {MIB}, or 0")
        for name in ("l3_queue_bytes_max", "flush_after_ms", "leases_max"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} must be at least 1")


def _check_member(option: str, value: object, kind: type[Enum]) -> None:
    if not isinstance(value, kind):
        names = ", ".join(f"{kind.__name__}.{member}" for member in kind.__members__)
        raise UsageError(f"unknown {option} {value!r}: use one of {names}")
