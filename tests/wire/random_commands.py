"""Random sequences of standard commands from a seed: right ones, odd ones, and some that are no command at all.

What docs/PROTOCOL.md lists as different from Redis is left out, as is what depends on the moment (DBSIZE beside expired
keys) or on how a table is laid out (cursors).
"""

from __future__ import annotations

from random import Random

KEYS = [b"a", b"b", b"k" * 9, b"key:0000000001", b"k" * 99, b"k" * 100, b"k" * 300, b"ns:1", b":x", b"\r\n\x00\xff"]
KEYS += [b"$5\r\nx", b"*2\r\n$3\r\nGET\r\n"]
NUMBERS = b"0 1 -1 7 100 -0 +1 01 1.0 abc 0x10 9223372036854775807 -9223372036854775808 9223372036854775808".split()
NUMBERS += [b"9223372036854775", b"9223372036854776", b"99999999999999999999", b" 1", b"1 ", b"", b"1\x00"]
DECIMALS = b"1.5 -2.25 0.1 .5 5. 1e10 1e-5 1e400 1e4932 inf -INF nan 0x1p3 0x.8 1e . 1_0 3.0e3 -0.0".split()
VALUES = [b"", b"x", b"\r\n", b"$1\r\nx\r\n", b"\x00\xff", b"v" * 44, b"v" * 1000, b"v" * 9000, *NUMBERS, *DECIMALS]
TIMES = b"1000000 999999 100000 0 -1 abc 1.5 010 9223372036854775807 -9223372036854775808 9223372036854775".split()
DATES = b"4102444800 4102444800000 abc 1.5 0 -1 100000".split()
INDEXES = b"0 1 3 -1 -3 5 100 -100 abc 1.5 9223372036854775807 -9223372036854775808".split()
PATTERNS = b"* a* ? [abc] [^a] k*k [c-a] [ [a \\* \\ a\\ *:* []a] [^] ** [\\]] [a-] k?????????".split()

SET_OPTIONS = [(b"EX", TIMES), (b"PX", TIMES), (b"EXAT", DATES), (b"PXAT", DATES), (b"NX",), (b"XX",), (b"GET",)]
SET_OPTIONS += [(b"KEEPTTL",), (b"FOO",)]
GETEX_OPTIONS = [(b"EX", TIMES), (b"PX", TIMES), (b"EXAT", DATES), (b"PERSIST",), (b"KEEPTTL",)]
EXPIRE_OPTIONS = [(b"NX",), (b"XX",), (b"GT",), (b"LT",), (b"FOO",)]
SCAN_OPTIONS = [(b"COUNT", [b"1000", b"0", b"abc"]), (b"MATCH", PATTERNS), (b"TYPE", [b"string", b"STRING", b"hash"])]
HELLO_OPTIONS = [(b"AUTH", [b"default", b"x"], [b"", b"y"]), (b"SETNAME", [b"n", b"my name", b""]), (b"FOO",)]
TRACKING_OPTIONS = [(b"NOLOOP",), (b"OPTIN",), (b"OPTOUT",), (b"PREFIX", KEYS), (b"REDIRECT", [b"0", b"x"]), (b"FOO",)]

Slot = bytes | list[bytes] | tuple[str, list[tuple[object, ...]]]
DATA: list[tuple[Slot, ...]] = [
    *[(name, KEYS) for name in b"GET GET GETDEL GETEX STRLEN INCR DECR TTL EXPIRETIME PERSIST TYPE EXISTS".split()],
    *[(name, KEYS, KEYS, KEYS) for name in b"MGET EXISTS TOUCH DEL UNLINK".split()],
    *[(name, KEYS, VALUES) for name in b"SET SET SETNX GETSET APPEND ECHO".split()],
    *[(name, KEYS, VALUES, KEYS, VALUES) for name in b"MSET MSETNX".split()],
    *[(name, KEYS, TIMES, VALUES) for name in b"SETEX PSETEX".split()],
    *[(name, KEYS, NUMBERS) for name in b"INCRBY DECRBY INCRBYFLOAT".split()],
    *[(name, KEYS, INDEXES, INDEXES) for name in b"GETRANGE SUBSTR".split()],
    *[(name, KEYS, TIMES, ("options", EXPIRE_OPTIONS)) for name in b"EXPIRE PEXPIRE".split()],
    *[(name, KEYS, DATES, ("options", EXPIRE_OPTIONS)) for name in b"EXPIREAT PEXPIREAT".split()],
    (b"SET", KEYS, VALUES, ("options", SET_OPTIONS)),
    (b"SET", KEYS, VALUES, ("options", SET_OPTIONS)),
    (b"GETEX", KEYS, ("options", GETEX_OPTIONS)),
    (b"INCRBYFLOAT", KEYS, DECIMALS),
    (b"SETRANGE", KEYS, [b"0", b"1", b"5", b"-1", b"abc"], VALUES),
    (b"KEYS", PATTERNS),
    (b"SCAN", [b"0", b"", b"abc", b"99999999999999999999"], ("options", SCAN_OPTIONS)),
]
SESSION: list[tuple[Slot, ...]] = [
    (b"PING",),
    (b"SELECT", [b"0", b"99", b"-1", b"abc", b"2147483648"]),
    (b"CLIENT", [b"SETNAME"], [b"n", b"my name", b"\xff"]),
    (b"CLIENT", [b"GETNAME", b"GETREDIR", b"FOO", b"TRACKINGINFO"]),
    (b"CLIENT", [b"KILL"], [b"ID", b"ADDR", b"TYPE", b"FOO"], [b"999999", b"0", b"1.2.3.4:5", b"abc"]),
    (b"CLIENT", [b"LIST"], [b"ID", b"TYPE"], [b"999999", b"-1", b"abc"]),
    (b"AUTH", [b"x", b"default"]),
    (b"HELLO", [b"2", b"3", b"4", b"abc"], ("options", HELLO_OPTIONS)),
    (b"COMMAND", [b"GETKEYS"], [b"GET", b"mset", b"ping", b"nosuch"], KEYS, VALUES),
    (b"CONFIG", [b"GET", b"SET", b"FOO"], [b"nosuch"]),
    (b"NOSUCH", VALUES, VALUES),
    (b"RESET",),
    (b"FLUSHALL",),
]
TRANSACTIONS: list[tuple[Slot, ...]] = [(b"MULTI",), (b"EXEC",), (b"EXEC",), (b"DISCARD",)]
CHANNELS: list[tuple[Slot, ...]] = [(b"SUBSCRIBE", [b"one", b"two"]), (b"UNSUBSCRIBE", [b"one", b"two"])]
TRACKING: list[tuple[Slot, ...]] = [
    (b"CLIENT", [b"TRACKING"], [b"ON", b"ON", b"x"], ("options", TRACKING_OPTIONS)),
    (b"CLIENT", [b"CACHING"], [b"YES", b"NO", b"x"]),
]
KEYED = {words[0] for words in DATA} - {b"ECHO", b"KEYS", b"SCAN"}


def sequence(rng: Random) -> list[list[bytes]]:
    """Some commands; the same for the same state of `rng`."""
    tracking = rng.random() < 0.2
    pool = list(DATA)
    for more in (SESSION, TRANSACTIONS, CHANNELS):
        if rng.random() < 0.4 and not tracking:
            pool += more * 2
    commands = []
    if tracking:
        pool += TRACKING * 2
        commands = [[b"HELLO", b"3"], [b"CLIENT", b"TRACKING", b"ON"]]
    keys = rng.sample(KEYS, rng.choice([1, 2, 4, len(KEYS)]))  # the fewer, the more happens to each
    for _ in range(rng.randint(5, 60)):
        words = [rng.choice(keys) if word in KEYS else word for word in _twist(rng, _fill(rng, rng.choice(pool)))]
        if not _is_left_out(words, tracking):
            commands.append(words)
    return commands


def _fill(rng: Random, slots: tuple[Slot, ...]) -> list[bytes]:
    words: list[bytes] = []
    for slot in slots:
        if isinstance(slot, bytes):
            words.append(slot)
        elif isinstance(slot, list):
            words.append(rng.choice(slot))
        else:
            for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
                words += [part if isinstance(part, bytes) else rng.choice(part) for part in rng.choice(slot[1])]  # type: ignore[call-overload]
    return words


def _twist(rng: Random, words: list[bytes]) -> list[bytes]:
    """Now and then another spelling, a word too many or too few, or another word."""
    kind = rng.randrange(40)
    place = rng.randrange(1, len(words) + 1)
    if kind == 0:
        return words[:place]
    if kind == 1:
        return [*words[:place], rng.choice(VALUES), *words[place:]]
    if kind == 2:
        return [*words[:place], rng.choice(TIMES), *words[place + 1 :]]
    if kind < 10:
        return [
            words[0].lower(),
            *[word.swapcase() if word.isalpha() and word.isupper() else word for word in words[1:]],
        ]
    return words


def _is_left_out(words: list[bytes], tracking: bool) -> bool:
    name = words[0].upper()
    if name in KEYED and b"" in (words[1::2] if name in (b"MSET", b"MSETNX") else words[1:2]):
        return True  # no empty keys
    if name in (b"MGET", b"EXISTS", b"TOUCH", b"DEL", b"UNLINK") and b"" in words:
        return True
    if len(words) < 3 and name in (b"COMMAND", b"CONFIG", b"CLIENT") and words[-1].upper()[:3] != b"GET":
        return True  # answers that are Redis's own
    if name == b"SELECT" and words[-1] in (b"1", b"7"):
        return True  # one database
    if name in (b"SUBSCRIBE", b"CONFIG", b"KEYS", b"SCAN") and max(map(len, words)) > 1024:
        return True  # longer names and patterns are past a limit
    if name == b"SCAN" and words[1:2] not in ([b"0"], [b""], [b"abc"], [b"99999999999999999999"]):
        return True
    # A DEL tells of keys that were not there, and a key that has expired already goes when it goes.
    return tracking and (
        name in (b"DEL", b"UNLINK", b"GETDEL") or {b"EXAT", b"PXAT"} & {word.upper() for word in words}
    )
