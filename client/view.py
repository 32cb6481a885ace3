"""Who is in the cluster at one epoch: the value that clients route by, shards proxy by and the coordinator publishes.

Invariants: a view never changes; the order of its shards does not matter (they are kept sorted by id); the msgpack
form is the one of docs/PROTOCOL.md, and a reader ignores fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgpack

from stratacache.node.errors import CorruptionError, UsageError

ACTIVE = "active"
SUSPENDED = "suspended"
ANYBODY = "?"
"""The incarnation of an address that was given by hand: whichever shard answers there will do."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard as clients see it.

    `id` is fixed for life and the only name that the ring knows; `incarnation` is new with every start of its process;
    `unix` is the path of its Unix socket ("" when it has none); `node` names the machine (the Ray node), so that
    replicas can be kept apart, and `group` stands for it there once the shard has moved to another one: owners never
    depend on where a shard happens to be; `state` is "active", or "suspended" while it keeps its range but may not
    serve.
    """

    id: str
    host: str = ""
    port: int = 0
    unix: str = ""
    weight: float = 1.0
    incarnation: str = ""
    node: str = ""
    state: str = ACTIVE
    group: str = ""

    @property
    def place(self) -> str:
        """What replicas of one key should not have in common."""
        return self.group or self.node

    @property
    def address(self) -> str:
        """`host:port`, or `unix:path` where there is no port; for messages."""
        if not self.port:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def to_map(self) -> dict[str, Any]:
        """The map of docs/PROTOCOL.md; `state` is left out while it is "active", an empty `group` too."""
        fields = {
            "id": self.id,
            "host": self.host,
            "port": self.port,
            "unix": self.unix,
            "weight": self.weight,
            "incarnation": self.incarnation,
            "node": self.node,
        }
        if self.state != ACTIVE:
            fields["state"] = self.state
        if self.group:
            fields["group"] = self.group
        return fields

    @classmethod
    def from_map(cls, fields: Mapping[str, Any]) -> ShardInfo:
        """Read the map form."""
        return cls(
            id=str(fields["id"]),
            host=str(fields.get("host") or ""),
            port=int(fields.get("port") or 0),
            unix=str(fields.get("unix") or ""),
            weight=float(fields.get("weight", 1.0)),
            incarnation=str(fields.get("incarnation") or ""),
            node=str(fields.get("node") or ""),
            state=str(fields.get("state") or ACTIVE),
            group=str(fields.get("group") or ""),
        )


@dataclass(frozen=True, kw_only=True)
class View:
    """The members of a cluster at `epoch`. Epochs only grow; 0 is a lone node that belongs to no cluster."""

    epoch: int
    cluster: str = ""
    replicas: int = 1
    shards: tuple[ShardInfo, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "shards", tuple(sorted(self.shards, key=lambda shard: shard.id)))
        if len(self.by_id) != len(self.shards):
            raise UsageError("a view names a shard twice; shard ids are unique")
        if not 1 <= self.replicas <= 3:
            raise UsageError(f"replicas is {self.replicas}; it must be 1, 2 or 3")
        for shard in self.shards:
            if not 0 < shard.weight <= 100:
                raise UsageError(f"{shard.id} has weight {shard.weight}; it must be above 0 and at most 100")

    @cached_property
    def by_id(self) -> Mapping[str, ShardInfo]:
        """The shards by their ids."""
        return {shard.id: shard for shard in self.shards}

    def to_bytes(self) -> bytes:
        """The msgpack form that `SC.VIEW` answers with."""
        fields = {
            "epoch": self.epoch,
            "cluster": self.cluster,
            "replicas": self.replicas,
            "shards": [shard.to_map() for shard in self.shards],
        }
        packed: bytes = msgpack.packb(fields)
        return packed

    @classmethod
    def from_bytes(cls, blob: bytes) -> View:
        """Read the msgpack form; raises CorruptionError when it is not one."""
        try:
            fields = msgpack.unpackb(blob)
            return cls(
                epoch=int(fields["epoch"]),
                cluster=str(fields.get("cluster") or ""),
                replicas=int(fields.get("replicas", 1)),
                shards=tuple(ShardInfo.from_map(shard) for shard in fields["shards"]),
            )
        except UsageError as error:
            raise CorruptionError(f"the view sent by a shard is not valid: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise CorruptionError(f"the view sent by a shard can't be read: {error!r}") from error
