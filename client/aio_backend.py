"""What all asyncio handles of one loop on one cluster share: the core, the shell, the first view.

Invariants: equal options give the same backend within a loop; it closes when the last handle that took it is closed, or
with its loop; nothing is kept of loops that have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator
from typing import Any

from stratacache.client.address import Address
from stratacache.client.backend import discover_into, new_core
from stratacache.client.core.circuit import Circuit
from stratacache.client.core.refresh import bootstrap
from stratacache.client.options import ClientOptions
from stratacache.client.transport.aio import AioShell
from stratacache.client.view import View


class AioBackend:
    """An asyncio client's shared half."""

    def __init__(self, options: ClientOptions, address: Address) -> None:
        self.options = options
        self.address = address
        self.core = new_core(options, address)
        self.handles = 0
        self.shell = self._new_shell()
        self.ready: asyncio.Task[None] | None = None
        self._attempts = Circuit()
        # A loop that ends (asyncio.run) ends its asynchronous generators first, and so the connections that nobody has
        # closed: those of a decorated function, say.
        self._guard = self._until_the_loop_ends()
        with contextlib.suppress(StopIteration):
            self._guard.__anext__().send(None)

    def _new_shell(self) -> AioShell:
        if self.address.scheme == "local":
            from stratacache.client.transport.local import AioLocalShell  # noqa: PLC0415 - imports the engine

            return AioLocalShell(self.core, self.address.directory)
        return AioShell(self.core, discover=self._discover)

    def _discover(self, timeout_s: float) -> View | None:
        return discover_into(self.core, timeout_s) if self.address.scheme == "ray" else None

    async def _until_the_loop_ends(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self.shell.close()

    async def open(self) -> None:
        """Get the first view; once for all who ask at the same time, anew after a failure: soon, if not at once."""
        if self.address.scheme == "local":
            return
        ready = self.ready
        if ready is None or (ready.done() and (ready.cancelled() or ready.exception())):
            failed = None if ready is None or ready.cancelled() else ready.exception()
            if failed is not None and not self._attempts.allows(self.core.monotonic()):
                raise failed.with_traceback(None)
            ready = self.ready = asyncio.create_task(self.shell.run(bootstrap(self.core)))
            ready.add_done_callback(self._opened)
        await asyncio.shield(ready)

    def _opened(self, ready: asyncio.Task[None]) -> None:
        """Attempts that fail again and again are made less often: each costs its caller a deadline."""
        if ready.cancelled() or ready.exception() is None:
            self._attempts.succeeded()
        else:
            self._attempts.failed(self.core.monotonic(), self.core.random)


BACKENDS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[ClientOptions, AioBackend]] = (
    weakref.WeakKeyDictionary()
)


def forget_ended(by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any]) -> None:
    """Drop what belongs to loops that are closed: what is kept for a loop leads to it, so no collector would."""
    for reference in by_loop.keyrefs():
        loop = reference()
        if loop is not None and loop.is_closed():
            by_loop.pop(loop, None)


def take(
    loop: asyncio.AbstractEventLoop, options: ClientOptions, address: Address, *, shared: bool = True
) -> AioBackend:
    """The backend of these options in a loop, made when there is none; a private one when `shared` is False."""
    forget_ended(BACKENDS)
    if not shared:
        backend = AioBackend(options, address)
    else:
        here = BACKENDS.setdefault(loop, {})
        known = here.get(options)
        backend = known if known is not None else here.setdefault(options, AioBackend(options, address))
    backend.handles += 1
    return backend


async def give(loop: asyncio.AbstractEventLoop, backend: AioBackend) -> None:
    """A handle was closed; the last one closes the backend, where its loop is the one that runs."""
    backend.handles -= 1
    if backend.handles > 0:
        return
    here = BACKENDS.get(loop, {})
    if here.get(backend.options) is backend:
        del here[backend.options]
    if loop is asyncio.get_running_loop():
        await backend.shell.close()
