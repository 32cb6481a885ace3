"""The controller's process: carries out what `controller.py` decides, and answers Kubernetes' probes and Prometheus.

One loop in one thread carries out effects, one after the other. It is no Ray node: it comes in over Ray Client, and
begins anew when that breaks, which can take half a minute; so a second thread goes on asking the shards. HTTP is
served in threads that only read.

Invariant: whatever fails of what it does, the loop goes on; `healthy` turns false when it does not, so that Kubernetes
restarts it; when a decision raises, in either thread, the process ends.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import hiredis

from stratacache.cluster import controller as c
from stratacache.cluster.config import SHARDS_MAX, ClusterConfig
from stratacache.cluster.controller_metrics import ControllerCollector
from stratacache.cluster.discovery import find_coordinator
from stratacache.cluster.launch import ClusterHandle, start
from stratacache.cluster.placement import node_seen
from stratacache.cluster.tls import Trust, client_context, trust_of
from stratacache.node.errors import CacheError, UnavailableError
from stratacache.node.metrics import metrics_page
from stratacache.node.pages import Page, PageServer

TICK_S: Final = 1.0
PING_DEADLINE_S: Final = 2.0
STATS_EVERY_S: Final = 15.0
STUCK_AFTER_S: Final = 120.0
"""Beyond the longest wait that the loop has of its own: a start, and Ray Client's attempts to reconnect."""

log = logging.getLogger(__name__)


class ControllerShell:
    """Runs one controller until `stop` is set. `config.token` is what clients must show."""

    def __init__(self, config: ClusterConfig, ray_address: str, *, http_host: str, http_port: int) -> None:
        self.core = c.Controller(config)
        self.config = config
        self.ray_address = ray_address
        self.stop = threading.Event()
        self.stats: dict[str, Any] = {}
        self._handle: ClusterHandle | None = None
        self._passed_s = time.monotonic()
        self._stats_s = float("-inf")
        self._said = ""
        self._failed: Exception | None = None
        self._deciding = threading.Lock()
        pages = {
            "/healthz": lambda _: _probe(self.healthy(), "the loop has not passed for too long"),
            "/readyz": lambda _: _probe(self.core.ready, self.core.why()),
            "/metrics": metrics_page(ControllerCollector(self.core, lambda: self.stats)),
        }
        self._http = PageServer(http_host, http_port, pages)

    @property
    def http_port(self) -> int:
        """The port that the probes are answered on."""
        return self._http.port

    def healthy(self) -> bool:
        """Whether the loop is alive; what Kubernetes' liveness probe asks."""
        return time.monotonic() - self._passed_s < self.config.start_timeout_ms / 1000 + STUCK_AFTER_S

    def run(self) -> None:
        """Keep the cache alive until `stop` is set. The cache outlives this."""
        threading.Thread(target=self._keep_asking, name="asking", daemon=True).start()
        try:
            while not self.stop.is_set():
                self._turn()
                self.stop.wait(TICK_S)
        finally:
            self._http.close()
            self._disconnect()
        if self._failed is not None:
            raise self._failed

    def _turn(self) -> None:
        effects = self._hear(c.Ticked())
        while effects and not self.stop.is_set():
            self._passed_s = time.monotonic()
            effects += self._hear(self._act(effects.pop(0)))
        self._passed_s = time.monotonic()
        said = self.core.why() or "every shard serves"
        if said != self._said:
            log.info("%s", said)
            self._said = said

    def _hear(self, event: c.Event) -> list[c.Effect]:
        with self._deciding:
            return self.core.handle(event, _now_ms())

    def _keep_asking(self) -> None:
        try:
            while not self.stop.wait(c.LOOK_EVERY_MS / 1000):
                running = self.core.running
                if running is not None:
                    self._hear(c.Answered(shards=self._serving(running.endpoints)))
        except Exception as error:  # noqa: BLE001 - raised in the process's own thread
            self._failed = error
            self.stop.set()

    def _act(self, effect: c.Effect) -> c.Event:
        try:
            match effect:
                case c.Connect():
                    return self._connect()
                case c.Look():
                    return self._look()
                case c.Create():
                    start(replace(self.config, uid=""))
                    return c.Done()
                case c.Remove(uid=uid):
                    return self._remove(uid)
                case c.Resize(uid=uid, shards=shards):
                    return self._resize(uid, shards)
                case c.Ping(endpoints=endpoints):
                    return c.Answered(shards=self._serving(endpoints))
        except CacheError as error:
            return c.Failed(reason=str(error))
        except Exception as error:  # noqa: BLE001 - Ray Client raises anything when its channel breaks
            return c.RayLost(reason=_line(error))

    def _connect(self) -> c.Event:
        import ray

        self._disconnect()
        # Beginning anew is this loop's own work; else Ray Client would first try for 30 s to mend a broken channel.
        os.environ.setdefault("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "2")
        ray.init(address=self.ray_address, namespace="stratacache", log_to_driver=False, logging_level="ERROR")
        return c.RayConnected()

    def _disconnect(self) -> None:
        import ray

        self._handle = None
        try:
            ray.shutdown()
        except Exception as error:  # noqa: BLE001 - what is broken need not close well
            log.debug("closing the way into Ray: %s", error)

    def _look(self) -> c.Event:
        import ray

        resource = self.config.node_resource
        seen = [node for raw in ray.nodes() if (node := node_seen(raw, resource)) is not None]
        places = sum(SHARDS_MAX if node.capacity is None else node.capacity for node in seen)
        try:
            handle = ClusterHandle(self.config.name, find_coordinator(self.config.name))
        except UnavailableError:
            self._handle = None
            return c.Looked(running=None, places=places)
        running = self._describe(handle)
        self._handle = handle
        if time.monotonic() - self._stats_s > STATS_EVERY_S and not running.failed:
            self._stats_s = time.monotonic()
            try:
                self.stats = handle.stats()
            except Exception as error:  # noqa: BLE001 - figures alone: what is to be done does not hang on them
                log.warning("the cluster's figures can't be had: %s", _line(error))
        return c.Looked(running=running, places=places)

    def _describe(self, handle: ClusterHandle) -> c.Running:
        status = handle.status()
        failed = status["reason"] or "no reason given" if status["phase"] in ("failed", "stopping") else ""
        serves = status["epoch"] > 0 and not failed
        return c.Running(
            uid=status["uid"],
            config=status.get("config", {}),
            token_is_ours=not serves or handle.token == self.config.token,
            endpoints={one["id"]: f"{one['host']}:{one['port']}" for one in status["shards"] if one["port"]},
            epoch=status["epoch"],
            failed=failed,
            reasons={one["id"]: one["reason"] for one in status["shards"] if one["reason"]},
            target=tuple(status.get("change", {}).get("target", ())),
            waits_for=status.get("change", {}).get("waits_for", ""),
        )

    def _remove(self, uid: str) -> c.Event:
        handle = ClusterHandle(self.config.name, find_coordinator(self.config.name))
        if handle.status()["uid"] == uid:
            handle.stop()
        return c.Done()

    def _resize(self, uid: str, shards: int) -> c.Event:
        handle = ClusterHandle(self.config.name, find_coordinator(self.config.name))
        if handle.status()["uid"] == uid:
            handle.resize(shards, deadline_s=0)
        return c.Done()

    def _serving(self, endpoints: Mapping[str, str]) -> frozenset[str]:
        trust = trust_of(self.config)
        return frozenset(
            shard for shard, address in endpoints.items() if serves(address, self.config.token, trust=trust)
        )


def serves(address: str, token: str | None, deadline_s: float = PING_DEADLINE_S, *, trust: Trust | None = None) -> bool:
    """Whether the shard at `host:port` answers a PING and holds the right to serve.

    EXISTS is a data command: a shard without its serving lease refuses it. As a native client we get MOVED where the
    probe's key belongs to another shard, which is as good an answer.
    """
    host, _, port = address.rpartition(":")
    commands: list[tuple[bytes, ...]] = [(b"SC.HELLO", b"1"), (b"PING",), (b"EXISTS", b"stratacache:probe")]
    if token is not None:
        commands.insert(0, (b"AUTH", token.encode()))
    reader = hiredis.Reader()
    replies: list[Any] = []
    until = time.monotonic() + deadline_s
    try:
        with _connected(host.strip("[]"), int(port), deadline_s, trust) as connection:
            connection.sendall(b"".join(hiredis.pack_command(command) for command in commands))  # type: ignore[arg-type]
            while len(replies) < len(commands):
                connection.settimeout(max(0.001, until - time.monotonic()))
                data = connection.recv(65_536)
                if not data:
                    return False
                reader.feed(data)
                while (reply := reader.gets()) is not False:
                    replies.append(reply)
    except (OSError, ValueError, hiredis.ProtocolError):
        return False
    *_, ping, exists = replies
    moved = isinstance(exists, hiredis.ReplyError) and str(exists).startswith("MOVED")
    return ping in (b"PONG", "PONG") and (isinstance(exists, int) or moved)


def _connected(host: str, port: int, deadline_s: float, trust: Trust | None) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=deadline_s)
    if trust is None:
        return connection
    try:
        return client_context(trust).wrap_socket(connection, server_hostname=trust.name)
    except BaseException:
        connection.close()
        raise


def _probe(good: bool, why: str) -> Page:
    return Page(b"ok\n") if good else Page(f"{why}\n".encode(), status=503)


def ray_address() -> str:
    """Where Ray is, from the environment, read once at the edge."""
    return os.environ.get("RAY_ADDRESS", "auto")


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
