"""The embedded default: the node engine in this process, behind the same commands as a shard.

One engine for each directory and process (LMDB is opened once), shared by all clients, blocking and asyncio, under one
lock. Answers have the form that a shard's have on the wire, so that everything above is the same code.

Invariants: the engine is touched under the lock only; a lease is waited for outside of it; the last client that closes
flushes and closes the engine. Another process, a forked child too, can't open the directory at the same time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgpack
from hiredis import ReplyError

from stratacache.client.core.counters import LOGGER
from stratacache.client.core.effects import Command
from stratacache.client.core.leases import unclaimed
from stratacache.client.options import ClientOptions
from stratacache.client.view import ShardInfo, View
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.entry import NEVER_MS, Entry
from stratacache.node.errors import CacheError, LimitError, UnavailableError, UsageError
from stratacache.node.leases import LeaseReply, LeaseState
from stratacache.node.types import EvictionPolicy

TICK_S = 0.05
LOCAL_ID = "local"
LOCAL_VIEW = View(epoch=0, shards=(ShardInfo(id=LOCAL_ID),))


class EngineNode:
    """An engine with its lock and its ticking thread."""

    def __init__(self, directory: str, options: ClientOptions) -> None:
        path = Path(directory)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"local:{directory} can't be used: {error}") from error
        self._lock = threading.RLock()
        self.engine = MultiLevelCache(
            NodeConfig(
                l1_bytes_max=options.l1_bytes_max,
                l2_bytes_max=options.l2_bytes_max,
                l3_bytes_max=options.l3_bytes_max,
                policy=EvictionPolicy.INTELLIGENT,
                data_dir=path,
            )
        )
        self.users = 0
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="stratacache-local", daemon=True)
        self._ticker.start()
        self._commands: dict[bytes, Callable[..., Any]] = {
            b"SC.GET": self._get,
            b"SC.MGET": self._mget,
            b"SC.PUT": self._put,
            b"SC.MPUT": self._mput,
            b"SC.LEASE": self._lease,
            b"SC.MLEASE": self._mlease,
            b"SC.RELEASE": self._release,
            b"SC.INVALIDATE": lambda *keys: self.engine.invalidate_keys(keys),
            b"SC.INVTAGS": lambda *tags: self.engine.invalidate_tags(tags),
            b"SC.INVNS": self.engine.invalidate_namespace,
            b"SC.CLEAR": self.engine.clear,
            b"SC.EXPIRE": self._expire,
            b"SC.VIEW": lambda *_: None,
            b"SC.STATS": lambda: msgpack.packb(self.engine.stats()),
            b"SC.PATTERNS": lambda: msgpack.packb({}),
            b"SC.RECIPE": self._recipes,
            b"EXISTS": lambda key: int(self.engine.peek(key) is not None),
            b"PTTL": self._pttl,
            b"PING": lambda: "PONG",
        }

    def _tick(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                with self._lock:
                    self.engine.tick()
            except Exception:  # noqa: BLE001 - without ticks nobody would be told that a lease has run out
                LOGGER.exception("a tick of the local cache failed")

    def execute(self, command: Command, deadline_s: float) -> Any:
        """The reply to a command: a value, a ReplyError, or TimeoutError raised when it took too long."""
        reply = self.begin(command)
        if not isinstance(reply, Future):
            return reply
        try:
            return lease_reply(reply.result(deadline_s))
        except BaseException:
            self.abandon([command], [reply])
            raise

    def abandon(self, commands: Sequence[Command], replies: Sequence[Any]) -> None:
        """Nobody waits for these replies any more: leases that they bring are given back."""
        with self._lock:
            replies = [_ended(reply) if isinstance(reply, Future) else reply for reply in replies]
            for key, token in unclaimed(commands, replies):
                self.engine.release_lease(key, token)

    def begin(self, command: Command) -> Any:
        """As `execute`, but for a lease that another holds: a Future of what `lease_reply` reads."""
        try:
            with self._lock:
                reply = self._commands[command[0]](*command[1:])
        except LimitError as error:
            return ReplyError(f"LIMIT {error}")
        except UsageError as error:
            return ReplyError(f"ERR {error}")
        except UnavailableError as error:
            return ReplyError(f"UNAVAILABLE {error}")
        except CacheError as error:
            return ReplyError(f"UNAVAILABLE {error}")
        return reply

    def _get(self, key: bytes) -> list[Any] | None:
        entry = self.engine.get(key)
        assert not isinstance(entry, Future), "an engine without post answers at once"
        return None if entry is None else [entry.codec, entry.payload]

    def _recipes(self, *keys: bytes) -> list[bytes | None]:
        recipes: list[bytes | None] = []
        for key in keys:
            entry = self.engine.peek(key)
            assert not isinstance(entry, Future), "an engine without post answers at once"
            recipes.append(self.engine.recipes.of(key, entry) or None)
        return recipes

    def _mget(self, *keys: bytes) -> list[Any]:
        found = [self._get(key) or (0, None) for key in keys]
        return [bytes([codec for codec, _ in found]), *[payload for _, payload in found]]

    def _put(self, key: bytes, payload: Any, *words: Any) -> str | None:
        return "OK" if self._store(key, payload, words) else None

    def _store(self, key: bytes, payload: Any, words: Sequence[Any], **more: Any) -> bool:
        options = {**_put_options(words, self.engine.now_ms()), **more}
        raw = b"".join(payload) if isinstance(payload, list) else payload
        stored = self.engine.put(key, raw, **options)
        assert not isinstance(stored, Future), "an engine without post answers at once"
        return stored

    def _mput(self, codecs: bytes, *words: Any) -> list[int]:
        count = len(codecs)
        leases, tail = _each(b"LEASES", words[2 * count :], count)
        ttls_ms, tail = _each(b"PXS", tail, count)
        stored: list[int] = []
        for number, codec in enumerate(codecs):
            options = (b"PX", ttls_ms[number], *tail) if ttls_ms else tail
            lease = leases[number] if leases else b""
            key, payload = words[2 * number], words[2 * number + 1]
            void = self.engine.leases.refused
            done = self._store(key, payload, options, codec=codec, lease=lease or None)
            stored.append(1 if done else 0 if self.engine.leases.refused != void else 2)
        return stored

    def _lease(self, key: bytes, wait_ms: int, hold_ms: int, *words: bytes) -> Any:
        reply = self.engine.lease(key, wait_ms, hold_ms, refresh=b"REFRESH" in words)
        if isinstance(reply, Future):
            return reply
        # A shard's SC.LEASE that was not to wait answers TIMEOUT where SC.MLEASE answers BUSY.
        return [b"TIMEOUT"] if reply.state is LeaseState.BUSY else lease_reply(reply)

    def _mlease(self, hold_ms: int, *keys: bytes) -> list[Any]:
        replies: list[Any] = []
        for key in keys:
            reply = self.engine.lease(key, 0, hold_ms)
            assert not isinstance(reply, Future), "an engine without post answers at once"
            replies.append(lease_reply(reply))
        return replies

    def _release(self, *words: bytes) -> int:
        return sum(self.engine.release_lease(words[at], words[at + 1]) for at in range(0, len(words), 2))

    def _expire(self, key: bytes, ttl_ms: int) -> int:
        expires_ms = NEVER_MS if ttl_ms < 0 else self.engine.now_ms() + ttl_ms
        changed = self.engine.set_expiry(key, expires_ms)
        assert not isinstance(changed, Future), "an engine without post answers at once"
        return int(changed)

    def _pttl(self, key: bytes) -> int:
        entry = self.engine.peek(key)
        if not isinstance(entry, Entry):
            return -2
        return -1 if entry.expires_ms == NEVER_MS else max(0, entry.expires_ms - self.engine.now_ms())

    def close(self) -> None:
        """Stop ticking, flush, close."""
        self._stop.set()
        self._ticker.join(5.0)
        with self._lock:
            self.engine.close()


def _each(name: bytes, words: Sequence[Any], count: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """The values that an option gives to each of `count` keys, if it stands first, and the words behind it."""
    if words and words[0] == name:
        return words[2 : 2 + count], words[2 + count :]
    return (), words


def _put_options(words: Sequence[Any], now_ms: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    at = 0
    while at < len(words):
        word, value = words[at], words[at + 1]
        at += 2
        if word == b"CODEC":
            options["codec"] = value
        elif word == b"PX":
            options["expires_ms"] = now_ms + value
        elif word == b"COST":
            options["cost_s"] = float(value)
        elif word == b"LEASE":
            options["lease"] = value
        elif word == b"META":
            options["metadata"] = value
        elif word == b"TAGS":
            options["tags"] = tuple(words[at : at + value])
            at += value
        else:
            raise UsageError(f"{word!r} is no option of SC.PUT")
    return options


def _ended(waiting: Future[LeaseReply]) -> Any:
    """What a lease that is waited for no longer has brought, if it came before."""
    return None if waiting.cancel() or waiting.cancelled() else lease_reply(waiting.result())


def lease_reply(reply: LeaseReply) -> list[Any]:
    """The reply of a shard to SC.LEASE."""
    word = reply.state.value.encode()
    if reply.entry is not None:
        return [word, reply.entry.codec, reply.entry.payload]
    return [word, reply.token] if reply.state is LeaseState.LEASE else [word]


_NODES: dict[str, EngineNode] = {}
_NODES_LOCK = threading.Lock()
_OF_THE_PARENT: list[Any] = []


def _leave_to_the_parent() -> None:
    """In a forked child: the engines are the parent's, and are not even closed here."""
    global _NODES, _NODES_LOCK
    _OF_THE_PARENT.append(_NODES)
    _NODES, _NODES_LOCK = {}, threading.Lock()


os.register_at_fork(after_in_child=_leave_to_the_parent)


def take_node(directory: str, options: ClientOptions) -> EngineNode:
    """The engine of a directory, opened when nobody in this process has it open.

    Raises UnavailableError when another process has.
    """
    with _NODES_LOCK:
        node = _NODES.get(directory)
        if node is None:
            node = _NODES[directory] = EngineNode(directory, options)
        node.users += 1
        return node


def give_node(directory: str) -> None:
    """One user less; the last one closes it."""
    with _NODES_LOCK:
        node = _NODES[directory]
        node.users -= 1
        if node.users:
            return
        del _NODES[directory]
    node.close()
