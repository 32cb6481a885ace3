"""What a put may look like: the limits of a key, a value, an expiry and a cost.

Invariants: every error names what was given, the limit and the way out; nothing is stored of what is refused here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .entry import COST_S_MAX, NEVER_MS
from .errors import LimitError, UsageError

if TYPE_CHECKING:
    from .config import NodeConfig


def check_put(limits: NodeConfig, key: bytes, payload: bytes, expires_ms: int, cost_s: float) -> None:
    """Raise LimitError for a key or value past its limit, UsageError for an expiry or a cost that is none."""
    if not key:
        raise LimitError("key is empty: a key has at least one byte")
    if len(key) > limits.key_bytes_max:
        raise LimitError(f"key has {len(key)} bytes, the limit is {limits.key_bytes_max}: hash the long part")
    if len(payload) > limits.value_bytes_max:
        raise LimitError(
            f"value has {len(payload)} bytes, the limit is {limits.value_bytes_max}: "
            "raise value_bytes_max or split the value"
        )
    check_expiry(expires_ms)
    check_cost(cost_s)


def check_cost(cost_s: float) -> None:
    """Raise UsageError for what no value can have taken to compute, and no policy can reckon with."""
    if not 0 <= cost_s <= COST_S_MAX:  # nan is neither
        raise UsageError(f"cost_s={cost_s} is no cost: give the seconds that computing took, 0 to {COST_S_MAX:.0f}")


def check_expiry(expires_ms: int) -> None:
    """Raise UsageError for a time on the node's clock at which nothing can expire."""
    if not 0 < expires_ms <= NEVER_MS:
        raise UsageError(f"expires_ms={expires_ms} is no time: give a positive TTL, or NEVER_MS for none")
