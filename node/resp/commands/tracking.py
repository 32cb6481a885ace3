"""CLIENT TRACKING: Redis's help for client-side caches, fed by the same changes as our own pushes.

In the default mode the table remembers which client read which key, and forgets it with the first message about it.
In broadcast mode a client hears of every change under its prefixes. A removal by tag or namespace becomes one message
for each tracked key that it covers; a broadcast client, whose keys nobody knows, is told to forget everything.

Invariants: a client is told of a change before whoever else made it has its answer, and of its own behind its replies;
the table holds at most `tracked_keys_max` keys of `TRACKED_BYTES_MAX` together, and one that has to make room is
reported as changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from stratacache.node.entry import DEAD_MS, NEVER_MS
from stratacache.node.keys import KEY_BYTES_MAX, namespace_of
from stratacache.node.resp.arguments import SYNTAX, integer_of, shown
from stratacache.node.resp.replies import NULLS, OK, CommandError, array, bulk, bulks, integer, members, pairs, push
from stratacache.node.resp.table import Later, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection
    from stratacache.node.resp.server import NodeServer

CHANNEL: Final = b"__redis__:invalidate"
_UNKNOWN_TAGS: Final = b"?"

PREFIXES_MAX: Final = 256
"""Prefixes of one client: all its prefixes are compared with each other, and every changed key with all of them."""


TRACKED_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of all keys in the table: without this limit a few long ones could fill the memory."""


class TrackingClient:
    """How one client wants to be told. `redirect`: number of the client to tell instead, 0 for itself."""

    __slots__ = ("broadcast", "caching", "no_loop", "opt_in", "opt_out", "prefixes", "redirect")

    def __init__(self) -> None:
        self.redirect = 0
        self.broadcast = False
        self.no_loop = False
        self.opt_in = False
        self.opt_out = False
        self.prefixes: list[bytes] = []
        self.caching: bool | None = None  # CLIENT CACHING for the next command

    @property
    def wants_next(self) -> bool:
        """Whether the client may keep what it reads with the command that is being run."""
        return not ((self.opt_in and not self.caching) or (self.opt_out and self.caching is False))


class Tracking:
    """Which clients are to be told of which keys."""

    def __init__(self, server: NodeServer) -> None:
        self._server = server
        self._readers: dict[bytes, set[int]] = {}
        self._groups: dict[bytes, set[bytes]] = {}
        self._groups_of: dict[bytes, tuple[bytes, ...]] = {}
        self.clients: dict[int, Connection] = {}
        self._broadcasting: list[Connection] = []
        self._waiting: dict[Connection, dict[bytes, dict[bytes, None]]] = {}  # client -> prefix -> changed keys
        self._bytes = 0  # of the keys in the table

    @property
    def keys(self) -> int:
        """Tracked keys."""
        return len(self._readers)

    @property
    def items(self) -> int:
        """Pairs of key and client."""
        return sum(map(len, self._readers.values()))

    @property
    def prefixes(self) -> int:
        """Prefixes of broadcast clients."""
        return sum(len(client.tracking.prefixes) for client in self.clients.values() if client.tracking)

    def remember(self, client: Connection, keys: Iterable[bytes]) -> None:
        """A client is about to read keys."""
        state = client.tracking
        if state is not None and not state.broadcast and state.wants_next:
            self._remember(client, keys)

    def _remember(self, client: Connection, keys: Iterable[bytes]) -> None:
        for key in keys:
            readers = self._readers.get(key)
            if readers is None:
                if len(key) > KEY_BYTES_MAX:
                    continue  # there will never be one
                self._enter(key)
                readers = self._readers[key] = set()
            readers.add(client.id)

    def report_behind(self, client: Connection, later: Later, keys: Sequence[bytes], *, here: bool = True) -> Later:
        """Report keys that change while a reply about them is waited for, once more behind that reply.

        The first report may come before it, and the client would keep for ever what it read then. Changes of keys that
        are not `here`, because another shard owns them, are not heard of at all: these are reported in any case.
        """
        state = client.tracking
        if state is None or not state.wants_next:
            return later
        if state.broadcast:
            keys = [key for key in keys if key.startswith(tuple(state.prefixes))]
        if here:
            self._remember(client, keys)  # as long as it waits, a client in broadcast mode as well
        return self._report_behind(client, later, keys, here)

    def _report_behind(self, client: Connection, later: Later, keys: Sequence[bytes], here: bool) -> Later:
        def reply(result: Any) -> Reply:
            answer = later.then(result)
            if isinstance(answer, Later):
                return self._report_behind(client, answer, keys, here)
            for key in keys:
                if not (here and client.id in self._readers.get(key, ())) or self._expires_unseen(key):
                    self._send(client, bulks([key]))
            return answer

        return Later(later.future, reply, cancel=later.cancel, applied=later.applied)

    def report_unseen(self, client: Connection, keys: Sequence[bytes]) -> None:
        """Report, behind the reply, keys that were read and that will expire with nobody hearing of it."""
        state = client.tracking
        if self._server.engine.l3 is None or state is None or not state.wants_next:
            return
        for key in keys:
            if self._expires_unseen(key) and (not state.broadcast or key.startswith(tuple(state.prefixes))):
                self._send(client, bulks([key]))

    def _expires_unseen(self, key: bytes) -> bool:
        """Whether a key is on disk alone and has an expiry: from then on it is a miss, but nobody is told."""
        engine = self._server.engine
        if engine.l3 is None or engine.residents.find(key) is not None:
            return False
        return engine.l3.expires_ms(key) not in (DEAD_MS, NEVER_MS)

    def _enter(self, key: bytes) -> None:
        self._bytes += len(key)
        while self._readers and (
            len(self._readers) >= self._server.config.tracked_keys_max or self._bytes > TRACKED_BYTES_MAX
        ):
            self._tell_readers(next(iter(self._readers)))
        entry = self._server.engine.table.get(key)
        tags = (_UNKNOWN_TAGS,) if entry is None else tuple([b"t" + tag for tag in entry.tags])
        groups = self._groups_of[key] = (b"n" + namespace_of(key), *tags)
        for group in groups:
            self._groups.setdefault(group, set()).add(key)

    def _tell_readers(self, key: bytes) -> None:
        """Tell the clients that read a key, and forget it."""
        readers = self._readers.pop(key, None)
        if readers is None:
            return
        self._bytes -= len(key)
        for group in self._groups_of.pop(key):
            keys = self._groups[group]
            keys.discard(key)
            if not keys:
                del self._groups[group]
        for number in readers:
            client = self.clients.get(number)
            if client is not None and client not in self._broadcasting:  # it may have read before it chose to broadcast
                self._tell(client, bulks([key]))

    def keys_changed(self, keys: Sequence[bytes]) -> None:
        """Keys were put, changed, or went away."""
        for key in keys:
            self._tell_readers(key)
        for client in self._broadcasting:
            state = client.tracking
            assert state is not None
            if state.no_loop and self._server.current is client:
                continue
            waiting = self._waiting.setdefault(client, {})
            for prefix in state.prefixes:
                for key in keys:
                    if key.startswith(prefix):
                        waiting.setdefault(prefix, {})[key] = None

    def flush(self) -> None:
        """Hand what was noted to the broadcast clients: one message for each of their prefixes, as Redis does."""
        while self._waiting:
            client, changed = self._waiting.popitem()
            for keys in changed.values():
                self._send(client, bulks(list(keys)))

    def group_changed(self, kind: str, names: Sequence[bytes]) -> None:
        """Tags, a namespace or everything was invalidated."""
        if kind == "all":
            self._forget_keys()
            for client in list(self.clients.values()):
                self._send(client, None)  # also to one with NOLOOP that has flushed by itself, as Redis does
            return
        groups = [b"t" + tag for tag in names] + [_UNKNOWN_TAGS] if kind == "tags" else [b"n" + name for name in names]
        for group in groups:
            for key in list(self._groups.get(group, ())):
                self._tell_readers(key)
        for client in self._broadcasting:
            self._tell(client, None)

    def _tell(self, client: Connection, keys: bytes | None) -> None:
        """Tell a client of encoded keys (None: of all), unless it made the change and does not want to hear of that."""
        state = client.tracking
        if state is not None and not (state.no_loop and self._server.current is client):
            self._send(client, keys)

    def _send(self, client: Connection, keys: bytes | None) -> None:
        state = client.tracking
        if state is None:
            return
        target: Connection | None = client
        if state.redirect:
            target = self._server.connections.get(state.redirect)
            if target is None:
                if client.resp == 3:
                    client.push(push([bulk(b"tracking-redir-broken"), integer(state.redirect)]))
                return
        if target is None:
            return
        content = NULLS[target.resp] if keys is None else keys
        if target.resp == 3:
            target.push(push([bulk(b"invalidate"), content]))
        elif state.redirect and target.channels:
            target.push(array([bulk(b"message"), bulk(CHANNEL), content]))

    def add(self, client: Connection, state: TrackingClient) -> None:
        """Begin to tell a client, or tell it in another way."""
        client.tracking = state
        self.clients[client.id] = client
        self._list_broadcasting()

    def discard(self, client: Connection) -> None:
        """Stop telling a client. Its keys leave the table with their next change."""
        client.tracking = None
        self.clients.pop(client.id, None)
        self._waiting.pop(client, None)
        self._list_broadcasting()
        if not self.clients:
            self._forget_keys()

    def _list_broadcasting(self) -> None:
        self._broadcasting = [one for one in self.clients.values() if one.tracking and one.tracking.broadcast]

    def _forget_keys(self) -> None:
        self._bytes = 0
        self._readers.clear()
        self._groups.clear()
        self._groups_of.clear()


def _options(connection: Connection, words: list[bytes]) -> TrackingClient:
    state = TrackingClient()
    position = 0
    while position < len(words):
        word = words[position].upper()
        position += 1
        if word == b"REDIRECT" and position < len(words):
            if state.redirect:
                raise CommandError("ERR A client can only redirect to a single other client")
            state.redirect = integer_of(words[position])
            position += 1
            if state.redirect not in connection.server.connections:
                raise CommandError("ERR The client ID you want redirect to does not exist")
        elif word == b"PREFIX" and position < len(words):
            state.prefixes.append(words[position])
            position += 1
        elif word == b"BCAST":
            state.broadcast = True
        elif word == b"OPTIN":
            state.opt_in = True
        elif word == b"OPTOUT":
            state.opt_out = True
        elif word == b"NOLOOP":
            state.no_loop = True
        else:
            raise CommandError(SYNTAX)
    return state


def _check_prefixes(old: list[bytes], new: list[bytes]) -> None:
    for index, one in enumerate(new):
        for others, what in ((old, "an existing"), (new[index + 1 :], "another provided")):
            for other in others:
                if one.startswith(other) or other.startswith(one):
                    first, second = shown(one), shown(other)
                    raise CommandError(
                        f"ERR Prefix '{first}' overlaps with {what} prefix '{second}'. "
                        "Prefixes for a single client must not overlap."
                    )


def _check(old: TrackingClient | None, new: TrackingClient) -> None:
    again = "before disabling tracking for this client, and then re-enabling it with a different mode."
    if new.prefixes and not new.broadcast:
        raise CommandError("ERR PREFIX option requires BCAST mode to be enabled")
    if old is not None and old.broadcast != new.broadcast:
        raise CommandError(f"ERR You can't switch BCAST mode on/off {again}")
    if new.broadcast and (new.opt_in or new.opt_out):
        raise CommandError("ERR OPTIN and OPTOUT are not compatible with BCAST")
    if new.opt_in and new.opt_out:
        raise CommandError("ERR You can't specify both OPTIN mode and OPTOUT mode")
    if old is not None and ((new.opt_in and old.opt_out) or (new.opt_out and old.opt_in)):
        raise CommandError(f"ERR You can't switch OPTIN/OPTOUT mode {again}")
    before = old.prefixes if old is not None else []
    if len(before) + len(new.prefixes) > PREFIXES_MAX or any(len(prefix) > KEY_BYTES_MAX for prefix in new.prefixes):
        raise CommandError(
            f"LIMIT a client may have {PREFIXES_MAX} prefixes of {KEY_BYTES_MAX} bytes: use shorter ones"
        )
    _check_prefixes(before, new.prefixes)


@command("client|tracking", -3, group="connection")
def client_tracking(connection: Connection, argv: list[bytes]) -> Reply:
    """Turn tracking on or off."""
    switch = argv[2].upper()
    state = _options(connection, argv[3:])
    tracking = connection.server.tracking
    if switch == b"ON":
        old = connection.tracking
        _check(old, state)
        if state.broadcast and not state.prefixes:
            state.prefixes = [b""]
        if old is not None:
            state.prefixes = sorted({*old.prefixes, *state.prefixes})
        tracking.add(connection, state)
    elif switch == b"OFF":
        tracking.discard(connection)
    else:
        raise CommandError(SYNTAX)
    connection.server.listen()
    connection.refresh_mode()
    return OK


@command("client|caching", 3, group="connection")
def client_caching(connection: Connection, argv: list[bytes]) -> Reply:
    """Whether the keys of the next command are tracked."""
    state = connection.tracking
    if state is None:
        raise CommandError(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode "
            "with OPTIN or OPTOUT mode enabled"
        )
    answer = argv[2].upper()
    if answer == b"YES":
        if not state.opt_in:
            raise CommandError("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
        state.caching = True
    elif answer == b"NO":
        if not state.opt_out:
            raise CommandError("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
        state.caching = False
    else:
        raise CommandError(SYNTAX)
    return OK


@command("client|getredir", 2, group="connection")
def client_getredir(connection: Connection, argv: list[bytes]) -> Reply:
    """The client that is told instead of this one; 0 for itself, -1 when it does not track."""
    return integer(-1 if connection.tracking is None else connection.tracking.redirect)


@command("client|trackinginfo", 2, group="connection")
def client_trackinginfo(connection: Connection, argv: list[bytes]) -> Reply:
    """How this client tracks."""
    state = connection.tracking
    flags = [b"off"] if state is None else [b"on"]
    if state is not None:
        for name, value in (
            (b"bcast", state.broadcast),
            (b"optin", state.opt_in),
            (b"optout", state.opt_out),
            (b"noloop", state.no_loop),
            (b"caching-yes", state.caching is True),
            (b"caching-no", state.caching is False),
            (b"broken_redirect", bool(state.redirect) and state.redirect not in connection.server.connections),
        ):
            if value:
                flags.append(name)
    facts = [
        (bulk(b"flags"), members([bulk(name) for name in flags], connection.resp)),
        (bulk(b"redirect"), integer(-1 if state is None else state.redirect)),
        (bulk(b"prefixes"), bulks([] if state is None else state.prefixes)),
    ]
    return pairs(facts, connection.resp)
