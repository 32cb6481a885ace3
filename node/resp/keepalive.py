"""Having the kernel find out that the other side of a TCP connection is not there any more.

A machine that vanishes, or a firewall that forgets a connection, says nothing. The kernel repeats what it has sent for
a quarter of an hour, and a connection on which nothing is sent stands for ever.

Invariant: what the platform can't be told is left out; a connection works without it.
"""

from __future__ import annotations

import socket
from typing import Any, Final, NamedTuple


class Patience(NamedTuple):
    """Silence after which the kernel asks, how long it waits for an answer, and how often it asks."""

    idle_s: int
    interval_s: int
    probes: int


CLIENT: Final = Patience(300, 100, 3)
"""For who connects to a node: as Redis. Else clients whose machine has vanished would hold their places for ever."""

PEER: Final = Patience(30, 10, 3)
"""For links between the shards of a cluster. More often than firewalls forget a connection on which nothing is sent."""


def keep_alive(sock: Any, patience: Patience) -> None:
    """Set it on a TCP socket; what a listener accepts inherits it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), patience, strict=True):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
