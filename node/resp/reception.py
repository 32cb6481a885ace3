"""TLS clients before they are clients: accepts their sockets, and hands over who has shaken hands in time.

An event loop that accepts TLS by itself tells nobody of a connection before the handshake is done, so strangers who
never begin it could hold any number of files open.

Invariants: who shakes hands counts as a connection, and above `connections_max` sockets are closed as soon as they are
accepted; a handshake that is not done after TLS_HANDSHAKE_S is closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

TLS_HANDSHAKE_S: Final = 10.0
ACCEPTED_AT_ONCE: Final = 64
"""Sockets that are accepted before those who are connected get their turn."""
AGAIN_S: Final = 1.0
"""After which it accepts again when the process may open no more files, as event loops do."""

log = logging.getLogger(__name__)


class Reception:
    """Listens for TLS clients on some sockets. `make` makes the protocol of one, `admit` says whether one may come."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        context: ssl.SSLContext,
        make: Callable[[], asyncio.BaseProtocol],
        admit: Callable[[], bool],
    ) -> None:
        self.sockets = tuple(sockets)
        self.greeting: set[asyncio.BaseProtocol] = set()
        """Those who are shaking hands."""
        self._context = context
        self._make = make
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        for listener in self.sockets:
            self._begin(listener)

    def close(self) -> None:
        """Accept no more, and end the handshakes."""
        self._closed = True
        for listener in self.sockets:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        for task in self._tasks:
            task.cancel()

    def _begin(self, listener: socket.socket) -> None:
        if not self._closed:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files: the socket stays readable, so look away for a while
                log.warning("a connection could not be accepted: %s", error)
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(AGAIN_S, self._begin, listener)
                return
            if not self._admit():
                client.close()
                continue
            client.setblocking(False)
            protocol = self._make()
            self.greeting.add(protocol)
            task = self._loop.create_task(self._greet(client, protocol))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _greet(self, client: socket.socket, protocol: asyncio.BaseProtocol) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol, client, ssl=self._context, ssl_handshake_timeout=TLS_HANDSHAKE_S
            )
        except OSError as error:  # it speaks no TLS, shows no certificate that is believed, is late, or is gone
            log.debug("a TLS handshake failed: %s", error)
        finally:
            self.greeting.discard(protocol)


async def listening_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of `host`; raises OSError when one of them can't be had."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                listener = socket.socket(family, kind, protocol)
            except OSError:  # a family that this machine does not have
                continue
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.setblocking(False)
            listener.listen(backlog)
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets
