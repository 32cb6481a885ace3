"""What keeps a cache alive on Kubernetes: it creates it where it is absent, and says whether it is whole.

Pure and synchronous: `handle(event, now_ms)` returns effects in the order in which they are to be carried out. The
controller is on no request's path. It may die, and it may run twice: creating is guarded by the coordinator's name in
Ray, and what is removed is removed by its `uid`, so that neither of two can hurt what the other made.

Invariants:
- it creates only where there is room for every shard, so that a cluster that is still gathering its nodes is not taken
  for a small one;
- a running cluster is replaced only when what it runs with differs from what is wanted, which is asked anew each time;
  another number of shards is no reason: it is resized while it runs, once there is room for all (but not with several
  copies of each key, which can't be resized yet);
- ready means: every wanted shard has said within the last round that it serves. It stays so while Ray's head or the
  coordinator is away and the shards go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stratacache.cluster.config import ClusterConfig

LOOK_EVERY_MS: Final = 2_000
RETRY_MIN_MS: Final = 1_000
RETRY_MAX_MS: Final = 15_000
NOT_COMPARED: Final = frozenset({"uid", "machine", "token", "start_timeout_ms", "shards"})
"""Fields that may differ from what runs: its own, compared apart, or of the next start only."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A cluster as its coordinator tells. `endpoints` holds the active shards; `failed` says why it never ran.

    `target` are the shards that it is to have; `waits_for` says what a resize waits for.
    """

    uid: str
    config: Mapping[str, Any]
    token_is_ours: bool
    endpoints: Mapping[str, str] = field(default_factory=dict)
    epoch: int = 0
    failed: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    target: tuple[str, ...] = ()
    waits_for: str = ""


# ------------------------------------------------------------------ what it hears


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """Time has passed; sent about once a second."""


@dataclass(frozen=True, kw_only=True)
class RayConnected:
    """The way into Ray is open."""


@dataclass(frozen=True, kw_only=True)
class RayLost:
    """Ray does not answer, or not any more."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What Ray runs under the cluster's name, None for nothing, and how many shards its nodes have places for."""

    running: Running | None
    places: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The shards that serve, as they have just said themselves."""

    shards: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What was asked for last has been done."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What was asked for last could not be done; Ray itself answers."""

    reason: str


Event = Ticked | RayConnected | RayLost | Looked | Answered | Done | Failed


# ------------------------------------------------------------------ what it asks for


@dataclass(frozen=True, kw_only=True)
class Connect:
    """Open the way into Ray. Answer: RayConnected or RayLost."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """See what runs. Answer: Looked or RayLost."""


@dataclass(frozen=True, kw_only=True)
class Create:
    """Start the cluster. Answer: Done or Failed."""


@dataclass(frozen=True, kw_only=True)
class Remove:
    """End the cluster of this life, flushing its disks, and no other. Answer: Done or Failed."""

    uid: str


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Have the running cluster take another number of shards. Answer: Done or Failed."""

    uid: str
    shards: int


@dataclass(frozen=True, kw_only=True)
class Ping:
    """Ask every one of these shards over the network whether it serves. Answer: Answered."""

    endpoints: Mapping[str, str]


Effect = Connect | Look | Create | Remove | Resize | Ping


class Controller:
    """Keeps one cluster as `config` describes it; see the module's text."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.connected = False
        self.running: Running | None = None
        self.answering: frozenset[str] = frozenset()
        self.places = 0
        self.reason = "it has not looked yet"
        self.created = 0
        self.removed = 0
        self.resized = 0
        self.failures = 0
        self._next_ms = 0
        self._asked: Effect | None = None

    @property
    def shards_ready(self) -> int:
        """How many of the wanted shards answered in the last round."""
        return len(self.answering & set(self._wanted()))

    @property
    def ready(self) -> bool:
        """Whether the cache is whole: every shard has said that it serves."""
        return self.running is not None and self.shards_ready == self.config.shards

    def _wanted(self) -> tuple[str, ...]:
        """The shards that there are to be; a cluster that was drained by hand keeps its own numbers."""
        target = self.running.target if self.running is not None else ()
        return target if len(target) == self.config.shards else self.config.shard_ids()

    def differs(self) -> tuple[str, ...]:
        """The fields in which the running cluster is not what is wanted."""
        if self.running is None:
            return ()
        wanted = self.config.to_map()
        fields = [name for name in wanted if name not in NOT_COMPARED and self.running.config.get(name) != wanted[name]]
        if self.config.replicas > 1 and self._must_resize():
            fields.append("shards")
        return (*fields, *(() if self.running.token_is_ours else ("token",)))

    def _must_resize(self) -> bool:
        running = self.running
        return running is not None and bool(running.target) and len(running.target) != self.config.shards

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Take note of an event and say what is to be done."""
        effects: list[Effect] = []
        match event:
            case Ticked():
                if now_ms >= self._next_ms:
                    effects = [Look() if self.connected else Connect()]
            case RayConnected():
                self.connected = True
                effects = [Look()]
            case RayLost(reason=reason):
                self.connected = False
                self._retry(f"Ray does not answer: {reason}", now_ms)
                effects = self._ping()
            case Looked(running=running, places=places):
                self.running, self.places = running, places
                effects = self._decide(now_ms)
            case Answered(shards=shards):
                self.answering = shards if self.running is not None else frozenset()
                return []
            case Done():
                self.created += isinstance(self._asked, Create)
                self.removed += isinstance(self._asked, Remove)
                self.resized += isinstance(self._asked, Resize)
                effects = [Look()]
            case Failed(reason=reason):
                self._retry(reason, now_ms)
                effects = self._ping()
        self._asked = effects[-1] if effects else None
        return effects

    def _decide(self, now_ms: int) -> list[Effect]:
        running = self.running
        if running is None:
            self.answering = frozenset()
            if self.places < self.config.shards:
                self.reason = f"waiting for Ray nodes: {self.config.shards} shards, places for {self.places}"
                self._next_ms = now_ms + LOOK_EVERY_MS
                return []
            self.reason = "creating the cache"
            return [Create()]
        if running.failed:
            self.reason = f"removing what could not be formed: {running.failed}"
            return [Remove(uid=running.uid)]
        if differs := self.differs():
            self.answering = frozenset()
            self.reason = f"restarting the cache, since {', '.join(differs)} changed"
            return [Remove(uid=running.uid)]
        self.reason, self.failures = "", 0
        self._next_ms = now_ms + LOOK_EVERY_MS
        if self._must_resize():
            wanted = self.config.shards
            if self.places < wanted:
                self.reason = f"waiting for Ray nodes: {wanted} shards, places for {self.places}"
            else:
                self.reason = f"resizing from {len(running.target)} to {wanted} shards"
                return [Resize(uid=running.uid, shards=wanted)]
        elif running.waits_for:
            self.reason = f"the resize {running.waits_for}"
        return self._ping()

    def _ping(self) -> list[Effect]:
        return [] if self.running is None else [Ping(endpoints=dict(self.running.endpoints))]

    def why(self) -> str:
        """One line for people: what is missing; empty when nothing is."""
        running = self.running
        if self.reason or running is None or self.ready:
            return self.reason
        silent = [shard for shard in self._wanted() if shard not in self.answering]
        told = [f"{shard} ({running.reasons[shard]})" if running.reasons.get(shard) else shard for shard in silent]
        return f"not serving: {', '.join(told)}"

    def _retry(self, reason: str, now_ms: int) -> None:
        self.reason = reason
        self._next_ms = now_ms + min(RETRY_MAX_MS, RETRY_MIN_MS << min(self.failures, 5))
        self.failures += 1
