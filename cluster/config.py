"""How a cluster is asked for: one frozen value that the command line, the Python API and the Helm bootstrap fill in.

Invariants: sizes are bytes, durations carry their unit, `validate()` is called before anything is created, and a
config travels unchanged to the coordinator and from there to every shard.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Final

from stratacache.cluster.streams import QUEUED_BYTES_MAX
from stratacache.node.config import NodeConfig
from stratacache.node.errors import UsageError
from stratacache.node.types import EvictionPolicy

MIB: Final = 1 << 20
PROCESS_BYTES: Final = 128 * MIB
"""What a shard takes beside its levels and queues: Python, Ray, the tables of a node."""
SHARDS_MAX: Final = 1000
REPLICAS_MAX: Final = 3
RAY_NAMESPACE: Final = "stratacache"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?")
_RESOURCE: Final = re.compile(r"([A-Za-z0-9_.-]+)?")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What `start()` and `stratacache up` create.

    `uid` names one life of the cluster (from start to stop), and `machine` is the address of the one machine that it
    stays on ("" when it spans several); both are made by `start()`. `host` is the address shards listen on ("":
    loopback on one machine, otherwise each Ray node's own, and then a token is made if none is given); with `port` P,
    shard-i listens on P+i, with 0 on any free port; with `port_span` K as well, on the first free one of P to P+K-1 on
    its Ray node. `data_dir` None means no L3.
    With `node_resource` R only Ray nodes that have the custom resource R hold shards, each at most as many as its
    amount. A node that has the resource R-home-J too is the home of the shards J*amount and on, and of no others: what
    they have on disk lies there, so they wait for it rather than start elsewhere.
    Metrics for Prometheus are served on `metrics_host`: with `metrics_port` P the coordinator's on P and shard-i's on
    P+1+i (with `port_span` K on the first free one of P+1 to P+K), with 0 on any free ports, with None nowhere.
    With `tls_certificate` and `tls_key`, files that every machine has, the shards speak TLS on their TCP ports (Unix
    sockets stay within a machine). Whoever connects checks the certificate with the authority in `tls_ca` (a file that
    every machine has, clients' included; "": the system's) and by the name `tls_name`.
    `refresh_ahead` and `wake` allow the two kinds of prefetch, `prefetch_tasks` at once and for so many seconds a
    minute; `patterns_every_ms` is how often the coordinator asks the shards for access patterns.
    """

    name: str = "default"
    uid: str = ""
    machine: str = ""
    shards: int = 3
    replicas: int = 1
    host: str = ""
    port: int = 0
    port_span: int = 0
    node_resource: str = ""
    token: str | None = None
    insecure: bool = False
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = 0
    tls_certificate: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_name: str = ""
    data_dir: str | None = None
    l1_bytes_max: int = 256 * MIB
    l2_bytes_max: int = 128 * MIB
    l3_bytes_max: int = 1024 * MIB
    policy: str = EvictionPolicy.LRU.value
    cpus_per_shard: float = 0.0
    refresh_ahead: bool = True
    wake: bool = True
    prefetch_tasks: int = 4
    prefetch_seconds_a_minute: float = 240.0
    patterns_every_ms: int = 5_000
    lease_ms: int = 10_000
    start_timeout_ms: int = 60_000

    def validate(self) -> None:
        """Check every field and how they go together; raises UsageError with the way out."""
        for one in fields(self):
            _check_kind(one.name, str(one.type), getattr(self, one.name))
        check_name(self.name)
        if not 1 <= self.shards <= SHARDS_MAX:
            raise UsageError(f"shards is {self.shards}; it must be from 1 to {SHARDS_MAX}")
        if not 1 <= self.replicas <= REPLICAS_MAX:
            raise UsageError(f"replicas is {self.replicas}; it must be from 1 to {REPLICAS_MAX}")
        if self.replicas > self.shards:
            raise UsageError(
                f"replicas is {self.replicas} and shards {self.shards}: a shard keeps one copy of a key, so use as many"
            )
        if not _RESOURCE.fullmatch(self.node_resource):
            raise UsageError(f"node_resource {self.node_resource!r} is not valid: use letters, digits, _ . and -")
        self._validate_network()
        self._validate_sizes()
        if self.policy not in {policy.value for policy in EvictionPolicy}:
            names = ", ".join(sorted(policy.value for policy in EvictionPolicy))
            raise UsageError(f"policy {self.policy!r} is not known: use one of {names}")
        if self.cpus_per_shard < 0:
            raise UsageError(f"cpus per shard is {self.cpus_per_shard}; it can't be negative")
        if self.lease_ms < 1_000:
            raise UsageError(f"lease_ms is {self.lease_ms}; it must be at least 1000, or a busy machine ends it")
        if self.prefetch_tasks < 1 or self.prefetch_seconds_a_minute <= 0 or self.patterns_every_ms < 100:
            raise UsageError(
                "prefetching needs at least 1 task, more than 0 seconds a minute, and patterns every 100 ms or more: "
                "switch it off with refresh_ahead=False and wake=False"
            )
        if self.start_timeout_ms < 1_000:
            raise UsageError(f"start_timeout_ms is {self.start_timeout_ms}; it must be at least 1000")

    def _validate_network(self) -> None:
        count = self.port_span or self.shards
        if self.port and not (self.port >= 1 and self.port + count - 1 <= 65_535):
            raise UsageError(f"port {self.port} leaves no room for {count} shards: ports go up to 65535")
        if self.port_span and not (self.port and self.port_span > 0):
            raise UsageError(f"port_span is {self.port_span}: it needs a port to count from, and must be above 0")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65_535 - (count if self.metrics_port else 0):
            raise UsageError(f"metrics_port {self.metrics_port} leaves no room for {count} more: ports go up to 65535")
        if self.host and self.host not in LOOPBACK and not (self.token or self.insecure):
            raise UsageError(
                f"host {self.host} can be reached from outside this machine: set a token, or say --insecure"
            )
        self._validate_tls()
        if self.token is not None and not self.token:
            raise UsageError("the token is empty: leave it out or give one")

    def _validate_tls(self) -> None:
        given = {name: getattr(self, name) for name in ("tls_certificate", "tls_key", "tls_ca", "tls_name")}
        if not any(given.values()):
            return
        for name in ("tls_certificate", "tls_key", "tls_name"):
            if not given[name]:
                raise UsageError(f"{name} is missing: TLS needs tls_certificate, tls_key and tls_name")
        for name in ("tls_certificate", "tls_key", "tls_ca"):
            if given[name] and not Path(given[name]).is_absolute():
                raise UsageError(f"{name} {given[name]} is relative; shards run elsewhere: give an absolute path")

    def _validate_sizes(self) -> None:
        for name in ("l1_bytes_max", "l2_bytes_max", "l3_bytes_max"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; a budget can't be negative")
        if self.l1_bytes_max < MIB:
            raise UsageError(f"l1_bytes_max is {self.l1_bytes_max}; a shard needs at least 1 MiB of L1")
        if self.data_dir is not None and not Path(self.data_dir).is_absolute():
            raise UsageError(f"data_dir {self.data_dir} is relative; shards run elsewhere: give an absolute path")

    def shard_ids(self) -> tuple[str, ...]:
        """The ids of the shards, fixed for the life of the cluster."""
        return tuple(f"shard-{index}" for index in range(self.shards))

    def memory_bytes(self) -> int:
        """What one shard declares to Ray: its levels in memory, the process itself, and what waits to go elsewhere.

        That is for the disk (`l3_queue_bytes_max` of the node), and for the other owners of its keys.
        """
        for_disk = NodeConfig.l3_queue_bytes_max if self.data_dir is not None and self.l3_bytes_max else 0
        for_copies = QUEUED_BYTES_MAX if self.replicas > 1 else 0
        return self.l1_bytes_max + self.l2_bytes_max + PROCESS_BYTES + for_disk + for_copies

    def to_map(self) -> dict[str, Any]:
        """Plain values, for JSON and for Ray."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def check_name(name: str) -> str:
    """A cluster's name, which is part of the names of files and actors; raises UsageError for one that can't be."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"cluster name {name!r:.80} is not valid: use 1 to 47 lower-case letters, digits and inner dashes"
        )
    return name


def _check_kind(name: str, declared: str, value: Any) -> None:
    """Refuse what a file or a program gives in the place of another type: "false" would be taken for true."""
    kind, _, optional = declared.partition(" | ")
    if optional and value is None:
        return
    match kind:
        case "bool":
            fits, wanted = isinstance(value, bool), "true or false"
        case "int":
            fits, wanted = isinstance(value, Integral) and not isinstance(value, bool), "a whole number"
        case "float":
            fits, wanted = isinstance(value, Real) and math.isfinite(value), "a finite number"
        case _:
            fits, wanted = isinstance(value, str | PathLike), "text"
    if not fits:
        raise UsageError(f"{name} is {value!r:.80}; it must be {wanted}")


LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def coordinator_name(cluster: str) -> str:
    """The coordinator's actor name; in the Ray namespace of `RAY_NAMESPACE`."""
    return f"{cluster}/coordinator"


def shard_actor_name(cluster: str, shard: str, incarnation: int) -> str:
    """A shard process's actor name. The incarnation in it keeps two coordinators from starting the same one twice."""
    return f"{cluster}/{shard}/{incarnation}"
