"""A client process: the client's real core over the simulated network, and a workload that keeps it busy.

Keys, tags and namespaces are few, so that everything meets everything. Each value is unique and names its key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from stratacache.client.core import fills
from stratacache.client.core.effects import Operation
from stratacache.client.core.operations import Operations
from stratacache.client.core.reads import fetch
from stratacache.client.core.refresh import bootstrap
from stratacache.client.core.state import Core, Groups
from stratacache.client.options import ClientOptions
from stratacache.client.view import ACTIVE
from stratacache.node.errors import CacheError, InvalidationIncompleteError
from stratacache.node.keys import full_key, namespace_of
from stratacache.node.types import MISS
from tests.simulation.oracle import Invalidation, Oracle, ViolationError, Write
from tests.simulation.sockets import Shell
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.cluster import SimCluster

KEYS = 8
TAGS = 3
NAMESPACES = ("default", "docs")
DEADLINE_S = 2.0
LATE_MS = 1500.0
"""How far an operation may pass its deadline: delays of the network, the last connection attempt, a slow clock."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a client does: how many keys there are in each namespace, which operations, at which pace."""

    keys: int = KEYS
    times: int = 1
    """How many times as many operations as elsewhere: what some seeds look for takes milliseconds."""
    pauses_ms: tuple[float, ...] = (0, 5, 100, 500, 1500)
    mix: tuple[float, ...] = (0.40, 0.10, 0.20, 0.13, 0.07, 0.075, 0.017, 0.008)
    """Shares of get, get_many, put, fill, and of invalidations by key, tag, namespace and of all."""
    ttls_s: tuple[float | None, ...] = (None, None, None, None, 2.0, 15.0)


STORM = Workload()
COPIES = Workload(keys=3, times=2, pauses_ms=(0, 0, 2, 20, 200, 1000))
"""What several owners can get wrong takes milliseconds: let keys be hot."""


class AnyOwnerCore(Core):
    """A core whose reads often begin at another owner than the first: all must give the same answers."""

    def route(self, *args: Any, **options: Any) -> Groups:
        """As Core.route."""
        if options["read"] and self.random.random() < 0.6:
            shunned = {self.random.choice(view.shards).id for view in [self.view] if view.shards}
            avoid = options["avoid"]
            options["avoid"] = {index: avoid.get(index, set()) | shunned for index in args[1]}
        return super().route(*args, **options)


class ClientProcess(Process):
    """One client with `lanes` operations at a time."""

    def __init__(
        self, cluster: SimCluster, oracle: Oracle, number: int, workload: Workload, *, lanes: int, ops: int
    ) -> None:
        super().__init__(cluster.world, cluster.new_machine(f"c{number}"), f"client-{number}")
        cluster.machines[self.machine.name] = self.machine
        self.cluster = cluster
        self.oracle = oracle
        self.workload = workload
        self.pauses_ms = workload.pauses_ms
        self.ops_left = ops
        self.busy = 0
        self.halt = False
        self.stays_with = ""
        """A shard: only keys that this client takes for its own are used then, so that it hears of no other view."""
        self.last_error = ""
        options = ClientOptions(
            deadline_s=DEADLINE_S,
            ttl_jitter=0.0,
            lease_hold_s=3.0,
            lease_wait_s=2.0,
            invalidation_retry_s=20.0,
            near_bytes_max=0,
        )
        self.random = Random(cluster.world.random.getrandbits(64))
        self.shell = Shell(self, cluster, options)
        made = Core if cluster.config.replicas == 1 else AnyOwnerCore
        self.core = made(
            options,
            monotonic=self.shell.monotonic,
            elapsed=self.shell.monotonic,
            random=Random(cluster.world.random.getrandbits(64)),
        )
        self.operations = Operations(self.core, "default", strict=True)
        self._values = 0
        for _ in range(lanes):
            self.after(self.random.uniform(0, 500), self._connect)

    def _connect(self) -> None:
        """Ask for the first view until there is one."""

        def connected(_: object, __: BaseException | None) -> None:
            if self.core.view.epoch > 0:
                self._next()
            else:
                self.after(300, self._connect)

        if self.core.view.epoch > 0:
            self._next()
        else:
            self.shell.run(_first_view(self.core), connected)

    def _next(self) -> None:
        if self.halt or self.ops_left <= 0:
            return
        self.ops_left -= 1
        pause_ms = self.random.choice(self.pauses_ms)
        self.after(pause_ms, self._begin)

    def _begin(self) -> None:
        operations = (
            self._get,
            self._get_many,
            self._put,
            self._fill,
            self._invalidate_keys,
            self._invalidate_tags,
            self._invalidate_namespace,
            self._clear,
        )
        self.random.choices(operations, self.workload.mix)[0]()

    def run(
        self,
        what: str,
        operation: Operation[Any],
        ended: Callable[[Any, BaseException | None], None],
        wait_ms: float = 0,
    ) -> None:
        """Run an operation of this workload; its end starts the next."""
        begun_ms = self.world.now_ms
        self.busy += 1
        self.oracle.counts["operations"] += 1
        self.oracle.counts[what.split(" ", 1)[0]] += 1

        def done(result: Any, error: BaseException | None) -> None:
            self.busy -= 1
            self.world.say(f"{self.name} {what} -> {result if error is None else repr(error)} ({begun_ms:.1f})")
            if error is not None:
                if not isinstance(error, CacheError):
                    raise error
                self.oracle.counts["operations failed"] += 1
                self.last_error = repr(error)
            took_ms = self.world.now_ms - begun_ms
            if took_ms > DEADLINE_S * 1000 + wait_ms + LATE_MS:
                raise ViolationError(f"I5 deadline: {self.name} {what} took {took_ms:.0f} ms")
            ended(result, error)
            self._next()

        self.shell.run(operation, done)

    # -------------------------------------------------------------- the operations

    def _key(self) -> tuple[str, str, bytes]:
        for _ in range(20):
            namespace = self.random.choice(NAMESPACES)
            key = f"k{self.random.randrange(self.workload.keys)}"
            full = full_key(namespace, key)
            if not self.stays_with or self.stays_with == self._first_active(full):
                break
        return namespace, key, full

    def _first_active(self, full: bytes) -> str:
        owners = self.core.ring.owners(full)
        return next((shard.id for shard in owners if shard.state == ACTIVE), "")

    def _new_write(self, full: bytes, what: str) -> tuple[Write, list[str], float | None]:
        self._values += 1
        tags = [f"t{number}" for number in range(TAGS) if self.random.random() < 0.35]
        ttl_s = self.random.choice(self.workload.ttls_s)
        value = b"%b#%b-%d" % (full, self.name.encode(), self._values)
        write = Write(
            value=value,
            key=full,
            tags=frozenset(tag.encode() for tag in tags),
            namespace=namespace_of(full),
            start=self.world.now_ms,
            what=f"{self.name} {what}",
        )
        if ttl_s is not None:
            write.ttl_ms = ttl_s * 1000
        self.oracle.write(write)
        return write, tags, ttl_s

    def _get(self) -> None:
        _, _, full = self._key()
        start = self.world.now_ms

        def ended(result: Any, error: BaseException | None) -> None:
            if error is None:
                values, failed = result
                if not failed:
                    self.oracle.read(self.name, full, start, _found(values, 0))

        self.run(f"get {full.decode()}", fetch(self.core, (full,)), ended)

    def _get_many(self) -> None:
        fulls = sorted({self._key()[2] for _ in range(4)})
        start = self.world.now_ms

        def ended(result: Any, error: BaseException | None) -> None:
            if error is None:
                values, failed = result
                for index, full in enumerate(fulls):
                    if index not in failed:
                        self.oracle.read(self.name, full, start, _found(values, index))

        self.run("get_many", fetch(self.core, fulls), ended)

    def _put(self) -> None:
        _, _, full = self._key()
        write, tags, ttl_s = self._new_write(full, "put")

        def ended(result: Any, error: BaseException | None) -> None:
            if error is None and result:
                self.oracle.stored(write)

        self.run(
            f"put {write.value.decode()}", self.operations.put(full, write.value, ttl_s, tags, None, "auto"), ended
        )

    def _fill(self) -> None:
        _, _, full = self._key()
        start = self.world.now_ms
        write, tags, ttl_s = self._new_write(full, "fill")
        computed = False

        def compute() -> tuple[Any, float]:
            nonlocal computed
            computed = True
            write.start = write.bound = self.world.now_ms
            write.fill = True
            return write.value, self.random.choice((0.0, 0.05, 0.5, 2.0))

        def ended(result: Any, error: BaseException | None) -> None:
            if error is None and not computed:
                self.oracle.read(self.name, full, start, result)

        options = fills.FillOptions(ttl_s, tags, None, "auto", self.core.options.lease_wait_s)
        operation = fills.get_or_compute(self.core, full, compute, options, strict=False)
        self.run(f"fill {write.value.decode()}", operation, ended, wait_ms=10_000)

    def _invalidation(self, kind: str, names: list[bytes], operation: Operation[int]) -> None:
        one = Invalidation(kind, frozenset(names), self.world.now_ms, what=f"{self.name} invalidate {kind} {names}")
        self.oracle.invalidate(one)

        def ended(_: Any, error: BaseException | None) -> None:
            if error is None:
                self.oracle.acknowledged(one)
            elif isinstance(error, InvalidationIncompleteError):
                self.oracle.counts["invalidations incomplete"] += 1

        self.run(f"invalidate {kind} {names}", operation, ended)

    def _invalidate_keys(self) -> None:
        namespace = self.random.choice(NAMESPACES)
        keys = sorted({f"k{self.random.randrange(self.workload.keys)}" for _ in range(self.random.choice((1, 1, 3)))})
        fulls = [full_key(namespace, key) for key in keys]
        self._invalidation("keys", fulls, self.operations.invalidate(keys, namespace))

    def _invalidate_tags(self) -> None:
        tags = sorted({f"t{self.random.randrange(TAGS)}" for _ in range(self.random.choice((1, 1, 2)))})
        self._invalidation("tags", [tag.encode() for tag in tags], self.operations.invalidate_tags(tags))

    def _invalidate_namespace(self) -> None:
        namespace = self.random.choice(NAMESPACES)
        self._invalidation("namespace", [namespace.encode()], self.operations.invalidate_namespace(namespace))

    def _clear(self) -> None:
        self._invalidation("all", [], self.operations.clear())

    # -------------------------------------------------------------- after healing

    def probe(self, key: str, done: Callable[[BaseException | None], None]) -> None:
        """Put, read and invalidate one key; `done` gets what went wrong."""
        full = full_key("default", key)
        write, tags, _ = self._new_write(full, "probe")
        write.ttl_ms = float("inf")

        def put(result: Any, error: BaseException | None) -> None:
            if error is not None:
                done(error)
                return
            if result:
                self.oracle.stored(write)
            self.shell.run(fetch(self.core, (full,)), partial(got, self.world.now_ms))

        def got(start: float, result: Any, error: BaseException | None) -> None:
            if error is None and not result[1]:
                self.oracle.read(self.name, full, start, _found(result[0], 0))
            done(error or next(iter(result[1].values()), None))

        self.shell.run(self.operations.put(full, write.value, None, tags, None, "auto"), put)


def _found(values: Sequence[Any], index: int) -> Any:
    """A value that was fetched, None for a miss."""
    return None if values[index] is MISS else values[index]


def _first_view(core: Core) -> Operation[None]:
    try:
        yield from bootstrap(core)
    except (CacheError, AttributeError):  # nobody knows a view yet
        return
