"""What all handles of a process on one cluster share: the core, the shell, the first view.

Invariants: equal options give the same backend within a process; it closes when the last handle that was made by
`connect` is closed; after a fork the child keeps the view and the counters but no socket, no thread and no flight.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from random import Random
from typing import Any, Protocol, TypeVar

from stratacache.client.address import Address, parse_address
from stratacache.client.core.effects import Command, Operation
from stratacache.client.core.near import NearCache
from stratacache.client.core.refresh import bootstrap, seed_shard
from stratacache.client.core.state import Core
from stratacache.client.options import ClientOptions
from stratacache.client.transport.blocking import BlockingShell
from stratacache.client.transport.tls import refuse_unheeded, tls_context
from stratacache.client.view import View
from stratacache.node.elapsed import elapsed_s
from stratacache.node.errors import UnavailableError

T = TypeVar("T")


def new_core(options: ClientOptions, address: Address) -> Core:
    """A core with its randomness seeded: by the options, or by the system when they say nothing."""
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(8), "big")
    random = Random(seed)  # noqa: S311 - jitter, not secrets
    core = Core(options, monotonic=time.monotonic, elapsed=elapsed_s, random=random)
    core.seeds = tuple(seed_shard(seed) for seed in address.seeds)
    if address.scheme == "stratas":
        core.tls = tls_context(options)
    elif address.scheme != "ray":  # there it comes with the view
        refuse_unheeded(options, f"{options.address}: an address for TLS begins with stratas://")
    if options.near_bytes_max and address.scheme != "local":
        core.near = NearCache(core)
        core.view_listeners.append(core.near.view_changed)
    return core


def discover(options: ClientOptions, timeout_s: float) -> tuple[View, str | None, tuple[str, str] | None]:
    """The view, the token, and with TLS the authority and the name, of the cluster in this process's Ray cluster.

    Raises UnavailableError with the way out when there is no Ray or no cache in it.
    """
    try:
        discovery = importlib.import_module("stratacache.cluster.discovery")
    except ImportError as error:
        raise UnavailableError(
            f"connect() without an address needs Ray ({error}); give an address such as strata://host:6380"
        ) from error
    found: tuple[View, str | None, tuple[str, str] | None] = discovery.access(options.cluster, timeout_s)
    return found


def discover_into(core: Core, timeout_s: float) -> View:
    """Ask Ray, and take over the token and the trust that come with the view."""
    view, token, tls = discover(core.options, timeout_s)
    if core.options.token is None:
        core.token = token
    if tls is None:
        refuse_unheeded(core.options, f"the cluster {view.cluster}, which runs without TLS")
    elif core.tls is None:
        core.tls = tls_context(core.options, tls[0] or None)
        core.tls_name = core.options.tls_server_name or tls[1]
    return view


class Shell(Protocol):
    """What carries operations out: sockets, or the engine of this process."""

    def run(self, operation: Operation[T]) -> T:
        """Carry an operation out to its result."""
        ...

    def ask_one(self, key: bytes, command: Command, *, repeatable: bool = True) -> Any:
        """The reply at once when nothing is in the way, else SLOW."""
        ...

    def ask_many(self, keys: list[Any], prefix: bytes) -> Any:
        """Likewise the reply to an SC.MGET."""
        ...

    def close(self) -> None:
        """Close connections and files."""

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child."""


class Backend:
    """A blocking client's shared half."""

    def __init__(self, options: ClientOptions) -> None:
        options.validate()
        self.options = options
        self.address = parse_address(options.address)
        self.core = new_core(options, self.address)
        self.handles = 0
        self.shell: Shell = self._new_shell()
        if self.address.scheme == "local":
            return
        try:
            self.shell.run(bootstrap(self.core))
        except BaseException:
            self.shell.close()
            raise

    def _new_shell(self) -> Shell:
        if self.address.scheme == "local":
            from stratacache.client.transport.local import LocalShell  # noqa: PLC0415 - imports the engine

            return LocalShell(self.core, self.address.directory)
        return BlockingShell(self.core, discover=self._discover)

    def _discover(self, timeout_s: float) -> View | None:
        if self.address.scheme != "ray":
            return None
        return discover_into(self.core, timeout_s)

    def close(self) -> None:
        """Close connections and files."""
        self.shell.close()

    def reset_after_fork(self) -> None:
        """Make it usable in a forked child."""
        self.core.reset_after_fork()
        self.shell.reset_after_fork()


class Registry:
    """The backends of this process by their options."""

    def __init__(self, make: Callable[[ClientOptions], Backend]) -> None:
        self._make = make
        self._backends: dict[ClientOptions, Backend] = {}
        self._lock = threading.Lock()
        self._private: weakref.WeakSet[Backend] = weakref.WeakSet()

    def take(self, options: ClientOptions, *, shared: bool = True) -> Backend:
        """The backend of these options, made when there is none; a private one when `shared` is False."""
        options.validate()
        if not shared:
            backend = self._make(options)
            self._private.add(backend)
            backend.handles += 1
            return backend
        with self._lock:
            found = self._backends.get(options)
            if found is None:
                found = self._backends[options] = self._make(options)
            found.handles += 1
            return found

    def give(self, backend: Backend) -> None:
        """A handle was closed; the last one closes the backend."""
        with self._lock:
            backend.handles -= 1
            if backend.handles > 0:
                return
            if self._backends.get(backend.options) is backend:
                del self._backends[backend.options]
        backend.close()

    def reset_after_fork(self) -> None:
        """Make every backend usable in a forked child."""
        self._lock = threading.Lock()
        for backend in [*self._backends.values(), *self._private]:
            backend.reset_after_fork()


BACKENDS = Registry(Backend)
os.register_at_fork(after_in_child=BACKENDS.reset_after_fork)
