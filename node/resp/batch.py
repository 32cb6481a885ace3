"""The puts of one SC.MPUT, in a module of its own so that their loop is compiled.

Invariant: each put is just what SC.PUT with the same options would be, in the order of the command.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from stratacache.node.keys import canonical

_COLON: Final = ord(":")  # a byte is found by its number at once; Python looks for bytes by way of an exception

if TYPE_CHECKING:
    from stratacache.node.engine import MultiLevelCache


def put_each(
    engine: MultiLevelCache,
    arguments: list[bytes],
    codecs: bytes,
    times: list[int],
    leases: list[bytes],
    tags: tuple[bytes, ...],
    cost_s: float,
    metadata: bytes,
) -> list[bool | Future[bool] | None]:
    """Store the payloads of `arguments`, a key and a payload in turns from its third on, one for each of `codecs`.

    `times` has when each expires, or one time for all; `leases` one for each, empty for none, or is empty itself.
    Where a lease is void it gives None.
    """
    done: list[bool | Future[bool] | None] = []
    table = engine.leases
    refused: int = table.refused
    expires_ms = times[0]
    each = len(times) > 1
    lease: bytes | None = None
    at = 2
    for number in range(len(codecs)):
        if each:
            expires_ms = times[number]
        if leases:
            lease = leases[number] or None
        key = arguments[at]
        if key.startswith(b"default:") and _COLON not in key[8:264]:
            key = canonical(key)  # seldom: most clients send the short form, or the prefix because it is needed
        stored = engine.put(
            key,
            arguments[at + 1],
            expires_ms=expires_ms,
            tags=tags,
            cost_s=cost_s,
            codec=codecs[number],
            metadata=metadata,
            lease=lease,
        )
        if stored is False and table.refused != refused:
            refused = table.refused
            done.append(None)
        else:
            done.append(stored)
        at += 2
    return done
