"""Our own commands: values with tags, cost, codec and metadata; batches; invalidation; view and statistics.

docs/PROTOCOL.md describes each; tests/wire holds the page to the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgpack

from stratacache.node.entry import NEVER_MS, Entry
from stratacache.node.errors import UnavailableError
from stratacache.node.keys import canonical
from stratacache.node.resp.arguments import SYNTAX, count_of, integer_of
from stratacache.node.resp.batch import put_each
from stratacache.node.resp.commands.entries import bulk_of, change, everything_of, gather, read
from stratacache.node.resp.dispatch import when
from stratacache.node.resp.put_options import kept_ms, parse_put, put
from stratacache.node.resp.replies import OK, ONE, ZERO, CommandError, array, bulk, integer
from stratacache.node.resp.table import Flag, Reply, command

if TYPE_CHECKING:
    from stratacache.node.resp.connection import Connection

PROTOCOL = 1
TOUCHES_MAX = 16
"""Hits of a near cache that count, for one key and report: beyond that they tell the policy nothing new."""
HITS_MAX = 0xFFFFFFFF
"""Of a key in one report: counters have 64 bits, and what a client says must not fill them."""


@command("sc.hello", 2, group="native")
def sc_hello(connection: Connection, argv: list[bytes]) -> Reply:
    """Mark the connection as native, and learn whom it leads to."""
    if count_of(argv[1], "proto", 1) < PROTOCOL:
        raise CommandError(f"ERR this node speaks protocol {PROTOCOL} of the native commands")
    connection.native = True
    server = connection.server
    limits = connection.engine.config
    facts = [
        (b"proto", integer(PROTOCOL)),
        (b"cluster", bulk(server.identity.cluster.encode())),
        (b"shard", bulk(server.identity.shard.encode())),
        (b"incarnation", integer(server.identity.incarnation)),
        (b"epoch", integer(server.epoch)),
        (b"key_bytes_max", integer(limits.key_bytes_max)),
        (b"value_bytes_max", integer(min(limits.value_bytes_max, server.config.value_bytes_max))),
    ]
    return array([part for name, value in facts for part in (bulk(name), value)])


def _short(entry: Entry | None, null: bytes) -> bytes:
    return null if entry is None else b"*2\r\n:%d\r\n%b" % (entry.codec, bulk_of(entry))


@command("sc.get", 2, Flag.READ, (1, 1, 1), group="native")
def sc_get(connection: Connection, argv: list[bytes]) -> Reply:
    """Get codec and payload of a key."""
    return read(connection, canonical(argv[1]), lambda entry: _short(entry, connection.null))


@command("sc.mget", -2, Flag.READ, (1, -1, 1), group="native")
def sc_mget(connection: Connection, argv: list[bytes]) -> Reply:
    """Get the codecs of many keys, a byte each, and their payloads."""
    lookup = connection.engine.get
    null = connection.null

    def reply(entries: list[Entry | None]) -> bytes:
        connection.check_reply_bytes(sum([entry.size for entry in entries if entry is not None]))
        codecs = bytes([0 if entry is None else entry.page.group.codec for entry in entries])
        return array([bulk(codecs), *[null if entry is None else bulk_of(entry) for entry in entries]])

    return gather([lookup(canonical(raw)) for raw in argv[1:]], reply)


@command("sc.getx", 2, Flag.READ, (1, 1, 1), group="native")
def sc_getx(connection: Connection, argv: list[bytes]) -> Reply:
    """Get a key with everything that is known about it."""
    seq = connection.server.watchers.seq
    return read(connection, canonical(argv[1]), lambda entry: everything_of(connection, entry, seq))


@command("sc.mgetx", -2, Flag.READ, (1, -1, 1), group="native")
def sc_mgetx(connection: Connection, argv: list[bytes]) -> Reply:
    """Get many keys with everything that is known about them."""
    lookup = connection.engine.get
    seq = connection.server.watchers.seq

    def reply(entries: list[Entry | None]) -> bytes:
        connection.check_reply_bytes(sum([entry.size for entry in entries if entry is not None]))
        return array([everything_of(connection, entry, seq) for entry in entries])

    return gather([lookup(canonical(raw)) for raw in argv[1:]], reply)


@command("sc.put", -3, Flag.WRITE, (1, 1, 1), group="native")
def sc_put(connection: Connection, argv: list[bytes]) -> Reply:
    """Put a payload with its TTL, tags, cost, codec, metadata and lease."""
    key = canonical(argv[1])
    engine = connection.engine
    options = parse_put(argv[3:], engine.now_ms())
    if options.lease is not None:
        connection.leases.pop(options.lease, None)
    if not options.condition:
        done = put(engine, key, argv[2], options)
        return OK if done is True else when(done, lambda done: OK if done else connection.null, applied=True)

    def decide(entry: Entry | None) -> Reply:
        if options.condition == (b"XX" if entry is None else b"NX"):
            return connection.null
        return when(put(engine, key, argv[2], options), lambda done: OK if done else connection.null, applied=True)

    return change(connection, key, decide)


_PUT_REPLIES = {True: ONE, None: ZERO, False: integer(2)}


def _mput_keys(argv: list[bytes]) -> list[bytes]:
    end = 2 + 2 * len(argv[1])
    if not 2 < end <= len(argv):
        raise CommandError("ERR the codecs of SC.MPUT are one byte for each key and payload that follow")
    return argv[2:end:2]


@command("sc.mput", -4, Flag.WRITE, group="native", find_keys=_mput_keys)
def sc_mput(connection: Connection, argv: list[bytes]) -> Reply:
    """Put many payloads with the same tags, cost and metadata, and one TTL for all or one for each."""
    codecs = argv[1]
    keys = _mput_keys(argv)
    end = 2 + 2 * len(keys)
    options = parse_put(argv[end:], connection.engine.now_ms(), many=True)
    for name, given in (("PXS", options.each_expires_ms), ("LEASES", options.each_lease)):
        if given and len(given) != len(keys):
            raise CommandError(f"ERR {name} has {len(given)} values for {len(keys)} keys")
    done = put_each(
        connection.engine,
        argv,
        codecs,
        list(options.each_expires_ms) or [options.expires_ms],
        list(options.each_lease),
        options.tags,
        options.cost_s,
        options.metadata,
    )
    for lease in options.each_lease:
        connection.leases.pop(lease, None)
    if done.count(True) == len(done):
        return b"*%d\r\n%b" % (len(done), ONE * len(done))
    return gather(done, lambda stored: array([_PUT_REPLIES[one] for one in stored]), applied=True)


@command("sc.invalidate", -2, Flag.WRITE, (1, -1, 1), group="native")
def sc_invalidate(connection: Connection, argv: list[bytes]) -> Reply:
    """Invalidate keys."""
    return when(connection.engine.invalidate_keys([canonical(raw) for raw in argv[1:]]), integer)


@command("sc.invkeys", -2, Flag.WRITE | Flag.INVALIDATES, group="native")
def sc_invkeys(connection: Connection, argv: list[bytes]) -> Reply:
    """Invalidate those of the keys that this shard owns; note the others, in case their owner is suspended."""
    server = connection.server
    keys = [canonical(raw) for raw in argv[1:]]
    if server.forwarder is not None:
        owner = server.forwarder.owner
        elsewhere = [key for key in keys if owner(key) is not None]
        if elsewhere:
            if server.owe is None:
                raise UnavailableError("nobody here records what a suspended shard owes")
            server.owe(elsewhere)
            keys = [key for key in keys if owner(key) is None]
    return when(connection.engine.invalidate_keys(keys), integer) if keys else ZERO


@command("sc.invtags", -2, Flag.WRITE | Flag.INVALIDATES, group="native")
def sc_invtags(connection: Connection, argv: list[bytes]) -> Reply:
    """Invalidate everything on this shard that carries any of the tags."""
    return when(connection.engine.invalidate_tags(argv[1:]), integer)


@command("sc.invns", 2, Flag.WRITE | Flag.INVALIDATES, group="native")
def sc_invns(connection: Connection, argv: list[bytes]) -> Reply:
    """Invalidate everything in a namespace on this shard."""
    return when(connection.engine.invalidate_namespace(argv[1]), integer)


@command("sc.clear", 1, Flag.WRITE | Flag.INVALIDATES, group="native")
def sc_clear(connection: Connection, argv: list[bytes]) -> Reply:
    """Invalidate everything on this shard."""
    return when(connection.engine.clear(), integer)


@command("sc.expire", 3, Flag.WRITE, (1, 1, 1), group="native")
def sc_expire(connection: Connection, argv: list[bytes]) -> Reply:
    """Set the expiry of a key in milliseconds; below 0 takes it away."""
    ms = integer_of(argv[2])
    expires_ms = NEVER_MS if ms < 0 else kept_ms(connection.engine.now_ms() + ms)
    return when(connection.engine.set_expiry(canonical(argv[1]), expires_ms), lambda done: ONE if done else ZERO)


@command("sc.view", -1, group="native")
def sc_view(connection: Connection, argv: list[bytes]) -> Reply:
    """The shard's view, unless its epoch is the one that is named."""
    if len(argv) > 2:
        raise CommandError(SYNTAX)
    server = connection.server
    if len(argv) == 2 and count_of(argv[1], "epoch") == server.epoch and server.epoch:
        return connection.null
    return bulk(server.view)


@command("sc.stats", 1, group="native")
def sc_stats(connection: Connection, argv: list[bytes]) -> Reply:
    """Statistics of the node."""
    stats = dict(connection.server.node_stats())
    stats["server"] = connection.server.stats()
    return bulk(msgpack.packb(stats))


@command("sc.patterns", 1, group="native")
def sc_patterns(connection: Connection, argv: list[bytes]) -> Reply:
    """Access patterns that this node has seen."""
    return bulk(msgpack.packb(connection.server.patterns()))


@command("sc.touched", -3, Flag.READ, (1, -1, 2), group="native")
def sc_touched(connection: Connection, argv: list[bytes]) -> Reply:
    """Note hits that a near cache served, so that eviction knows what is wanted."""
    if len(argv) % 2 == 0:
        raise CommandError("ERR wrong number of arguments for 'sc.touched' command")
    counts = [count_of(text, "count", 1, HITS_MAX) for text in argv[2::2]]
    for raw, count in zip(argv[1::2], counts, strict=True):
        connection.engine.touch(canonical(raw), count, TOUCHES_MAX)
    return OK


@command("sc.recipe", -2, Flag.READ, (1, -1, 1), group="native")
def sc_recipe(connection: Connection, argv: list[bytes]) -> Reply:
    """What it takes to compute the values of these keys again, where that is kept; counted as no access."""
    engine = connection.engine
    keys = [canonical(raw) for raw in argv[1:]]

    def reply(entries: list[Entry | None]) -> bytes:
        recipes = [engine.recipes.of(key, entry) for key, entry in zip(keys, entries, strict=True)]
        parts = [bulk(recipe) if recipe else connection.null for recipe in recipes]
        connection.check_reply_bytes(sum(map(len, parts)))
        return array(parts)

    return gather([engine.peek(key) for key in keys], reply)


@command("sc.watch", 1, Flag.READ | Flag.NO_MULTI, group="native")
def sc_watch(connection: Connection, argv: list[bytes]) -> Reply:
    """Begin to push every change of this shard on this connection."""
    if connection.resp != 3:
        raise CommandError("ERR SC.WATCH needs RESP3: send HELLO 3 first")
    connection.server.watchers.add(connection)
    return OK
