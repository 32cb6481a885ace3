"""The client's state between operations: the ring in force, circuits, counters, and how a key finds its shard.

Invariants: the ring is replaced, never changed, and its epoch never falls; routing asks no socket; a suspended shard is
never a target; writes go to the first active owner and nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from stratacache.client.codec import decode
from stratacache.client.core.circuit import Circuit, RetryBudget
from stratacache.client.core.counters import Counters, QuietLog
from stratacache.client.core.flight import Flights
from stratacache.client.options import ClientOptions
from stratacache.client.ring import Ring
from stratacache.client.view import ACTIVE, ShardInfo, View
from stratacache.node.errors import AccessError, CacheError, UnavailableError
from stratacache.node.merging import Ledger
from stratacache.node.types import MISS

if TYPE_CHECKING:
    import ssl

    from stratacache.client.core.near import NearCache

Groups = dict[str, tuple[ShardInfo, list[int]]]


class Core:
    """Shared by all threads and tasks of a process that use one cluster with the same options.

    `monotonic` gives the seconds by which is waited, `elapsed` those by which a held value ends (`node/elapsed.py`).
    """

    def __init__(
        self,
        options: ClientOptions,
        *,
        monotonic: Callable[[], float],
        elapsed: Callable[[], float],
        random: Random,
    ) -> None:
        self.options = options
        self.monotonic = monotonic
        self.elapsed = elapsed
        self.random = random
        self.counters = Counters()
        self.log = QuietLog(monotonic)
        self.budget = RetryBudget()
        self.flights = Flights()
        self.circuits: dict[str, Circuit] = {}
        self.ring = Ring(View(epoch=-1))
        self._adopting = threading.Lock()
        self.seeds: tuple[ShardInfo, ...] = ()
        self.token = options.token  # inside Ray it comes with the view
        self.tls: ssl.SSLContext | None = None  # likewise
        self.tls_name = options.tls_server_name
        self.ask_for_unserved_after = 0.0
        self.refresh_after = 0.0  # no view refresh that a failure asks for before this time
        self.view_listeners: list[Callable[[View], None]] = []
        self.near: NearCache | None = None
        self.ledger = Ledger()

    @property
    def view(self) -> View:
        """The view in force."""
        return self.ring.view

    def adopt(self, view: View) -> bool:
        """Route by a newer view; an older or equal one changes nothing."""
        if view.epoch <= self.view.epoch:
            return False
        ring = Ring(view)  # takes its time, in which another thread may adopt a newer one
        with self._adopting:
            if view.epoch <= self.view.epoch:
                return False
            self.ring = ring
        self.counters.views += 1
        for listener in self.view_listeners:
            listener(view)
        return True

    def reset_after_fork(self) -> None:
        """No thread of the parent holds anything here."""
        self._adopting = threading.Lock()
        self.flights.reset_after_fork()
        if self.near is not None:
            self.near.reset_after_fork()

    def deadline(self, extra_bytes: int = 0) -> float:
        """When an operation that starts now gives up; large payloads get a second more for every 16 MiB."""
        return self.monotonic() + self.options.deadline_s + extra_bytes / (16 << 20)

    def circuit(self, shard_id: str) -> Circuit:
        """The circuit of a shard."""
        found = self.circuits.get(shard_id)
        return found if found is not None else self.circuits.setdefault(shard_id, Circuit())

    def shard_failed(self, shard_id: str) -> None:
        """A shard gave no answer."""
        self.circuit(shard_id).failed(self.monotonic(), self.random)

    def shard_answered(self, shard_id: str) -> None:
        """A shard gave one."""
        circuit = self.circuits.get(shard_id)
        if circuit is not None and circuit.failures:
            circuit.succeeded()

    def active_shards(self) -> list[ShardInfo]:
        """The shards that may serve."""
        return [shard for shard in self.view.shards if shard.state == ACTIVE]

    def may_ask_for_unserved(self) -> bool:
        """Whether to look for a newer view because keys have nobody to serve them; every 0.25 s at most."""
        now = self.monotonic()
        if now < self.ask_for_unserved_after:
            return False
        self.ask_for_unserved_after = now + 0.25
        return True

    def route(
        self,
        keys: Sequence[bytes],
        indices: Sequence[int],
        *,
        read: bool,
        avoid: dict[int, set[str]],
        failed: dict[int, CacheError],
    ) -> Groups:
        """Group keys by the shard to ask now. A key that has no such shard gets its error in `failed`."""
        ring = self.ring
        groups: Groups = {}
        if ring.view.replicas == 1 and not self._may_be_down():
            if len(ring.shards) == 1:
                lone = ring.shards[0]
                return {lone.id: (lone, list(indices))} if indices else {}
            primary = ring.primary
            for index in indices:
                shard = primary(keys[index])
                group = groups.get(shard.id)
                if group is None:
                    groups[shard.id] = (shard, [index])
                else:
                    group[1].append(index)
            return groups
        allowed: dict[str, bool] = {}
        for index in indices:
            try:
                owners = [shard for shard in ring.owners(keys[index]) if shard.state == ACTIVE]
            except UnavailableError as error:
                failed[index] = error
                continue
            if read:
                shunned = avoid.get(index, ())
                owners.sort(key=lambda shard: shard.id in shunned)  # stable: the primary first among equals
            else:
                del owners[1:]
            for shard in owners:
                may = allowed.get(shard.id)
                if may is None:
                    circuit = self.circuits.get(shard.id)
                    may = allowed[shard.id] = circuit is None or circuit.allows(self.monotonic())
                if may:
                    groups.setdefault(shard.id, (shard, []))[1].append(index)
                    break
            else:
                failed[index] = self._no_target(keys[index], owners)
        return groups

    def _may_be_down(self) -> bool:
        """Whether any shard may have to be left out; else routing is the ring alone."""
        if not self.ring.usable:
            return True
        return any(circuit.failures for circuit in list(self.circuits.values()))  # other threads add theirs

    def _no_target(self, key: bytes, owners: Sequence[ShardInfo]) -> UnavailableError:
        if owners:
            names = ", ".join(f"{shard.id} ({shard.address})" for shard in owners)
            return UnavailableError(f"{names} did not answer the last calls and is left alone for a moment")
        names = ", ".join(shard.id for shard in self.ring.owners(key))
        return UnavailableError(f"{names} is suspended in epoch {self.view.epoch}: nobody serves its keys now")

    def decode(self, codec_id: int, payload: Any) -> Any:
        """The value of a payload; one that can't be read is a counted miss with a log line, never an error."""
        try:
            return decode(codec_id, payload, signing_key=self.options.signing_key)
        except (CacheError, ImportError) as error:
            self.counters.undecodable += 1
            kind = "pickle" if isinstance(error, AccessError) else "codec"
            self.log.note(f"decode-{kind}", f"an entry can't be decoded and counts as a miss: {error}")
            return MISS

    def fail_open(self, operation: str, error: CacheError, *, strict: bool) -> None:
        """Swallow an error of the cache itself: counted and logged; raised when `strict` or the call was wrong."""
        if strict or not isinstance(error, UnavailableError):
            raise error
        self.counters.failed(operation)
        self.log.note(operation, f"{operation} went on without the cache: {error}")
