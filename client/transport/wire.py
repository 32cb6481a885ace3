"""Commands to bytes, and what a connection says first.

Invariants: large payloads are handed on as the buffers that they are; what is joined is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from hiredis import pack_command

from stratacache.client.core.effects import Command
from stratacache.client.core.fullkeys import COLON_WITHIN, common_prefix
from stratacache.client.core.request import SCATTER_BYTES_MIN
from stratacache.client.core.trouble import Kind, read_trouble
from stratacache.client.view import ANYBODY, ShardInfo
from stratacache.node.errors import AccessError, CacheError, UnavailableError

PROTOCOL = 1
HEADS_MAX = 8 * 1024  # heads of shorter arguments are kept
COPIED_BYTES_MAX = 512  # a longer argument is joined once, with everything else


def pack(commands: Sequence[Command]) -> list[Any]:
    """The buffers to send for some commands, in order."""
    out: list[Any] = []
    small: list[bytes] = []
    for command in commands:
        if command[0] == b"SC.MPUT":  # hiredis would copy each payload into a string that it grows and grows
            if (parts := _batch_parts(command)) is None:
                _pack_scattered(command, out, small)
            else:
                out += [b"".join(small), *parts] if small else parts
                small.clear()
            continue
        try:
            small.append(pack_command(command))
        except TypeError:  # an argument is a list of buffers
            _pack_scattered(command, out, small)
    if small:
        out.append(small[0] if len(small) == 1 else b"".join(small))
    return out


class _Heads(dict[int, bytes]):
    """What stands before an argument of so many bytes, and behind the one before it."""

    def __missing__(self, size: int) -> bytes:
        head = b"\r\n$%d\r\n" % size
        if size < HEADS_MAX:
            self[size] = head
        return head


_HEAD_OF = _Heads().__getitem__
_ONLY_BYTES = {bytes}


def _batch_parts(command: Command) -> list[bytes] | None:
    """An SC.MPUT in pieces, its payloads as they lie; None for one with a payload that is a list of buffers."""
    end = 2 + 2 * len(command[1])
    arguments: Sequence[Any] = command
    if end < len(command):
        arguments = [*command[:end], *[b"%d" % word if word.__class__ is int else word for word in command[end:]]]
    if set(map(type, arguments)) != _ONLY_BYTES:
        return None
    parts = [b"*%d" % len(arguments), *[b""] * (2 * len(arguments)), b"\r\n"]
    parts[1:-1:2] = map(_HEAD_OF, map(len, arguments))
    parts[2:-1:2] = arguments
    return parts


class _TextHeads(dict[int, str]):
    """As `_Heads`, in text, with the prefix of a namespace behind it."""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix.decode()

    def __missing__(self, size: int) -> str:
        head = self[size] = f"\r\n${len(self._prefix.encode()) + size}\r\n{self._prefix}"
        return head


_text_heads = lru_cache(maxsize=64)(_TextHeads)


def pack_mget(keys: Sequence[Any], prefix: bytes) -> bytes | None:
    """SC.MGET for an ordinary batch of ASCII text, straight from the keys as they were given; None for any other.

    `prefix` is that of their namespace. Full keys and arguments in between would take three times as long.
    """
    try:
        text = "\n".join(keys)
    except TypeError:
        return None
    lengths = list(map(len, keys))
    common = common_prefix(text.encode(), len(lengths), prefix) if text.isascii() else None
    if common is None or not min(lengths) or max(lengths) + len(common) > COLON_WITHIN:
        return None
    parts = [""] * (2 * len(lengths))
    parts[::2] = map(_text_heads(common).__getitem__, lengths)
    parts[1::2] = keys
    return f"*{len(lengths) + 1}\r\n$7\r\nSC.MGET{''.join(parts)}\r\n".encode()


def _pack_scattered(command: Command, out: list[Any], small: list[bytes]) -> None:
    small.append(b"*%d\r\n" % len(command))
    for argument in command:
        if isinstance(argument, list):
            size = sum(len(part) for part in argument)
            small.append(b"$%d\r\n" % size)
            if size >= SCATTER_BYTES_MIN:
                out.append(b"".join(small))
                small.clear()
                out.extend(argument)
            else:
                small.extend(argument)
            small.append(b"\r\n")
        elif argument.__class__ is bytes:
            if len(argument) < COPIED_BYTES_MAX:
                small.append(b"$%d\r\n%b\r\n" % (len(argument), argument))
            else:
                small += (b"$%d\r\n" % len(argument), argument, b"\r\n")
        elif argument.__class__ is int:
            digits = b"%d" % argument
            small.append(b"$%d\r\n%b\r\n" % (len(digits), digits))
        else:
            raw = str(argument).encode()
            small.append(b"$%d\r\n%b\r\n" % (len(raw), raw))


def greeting(token: str | None, *, watch: bool = False) -> list[Command]:
    """The commands that open a connection: who we are, SC.HELLO, and SC.WATCH for one that is to hear pushes."""
    commands: list[Command] = []
    if watch:
        commands.append((b"HELLO", 3, b"AUTH", b"default", token) if token else (b"HELLO", 3))
    elif token:
        commands.append((b"AUTH", token))
    commands.append((b"SC.HELLO", PROTOCOL))
    if watch:
        commands.append((b"SC.WATCH",))
    return commands


def check_greeting(replies: Sequence[Any], shard: ShardInfo, *, exact: bool, watch: bool = False) -> CacheError | None:
    """Whether the right shard answered; an error when it did not, or would not have us.

    `exact` asks for the incarnation too: a Unix socket's path may belong to another cluster's shard of the same name.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            trouble = read_trouble(str(reply), shard.id)
            if trouble.kind is Kind.FINAL and not isinstance(trouble.error, AccessError):
                return UnavailableError(f"{shard.id} does not speak our protocol: {reply}")
            return trouble.error
    facts = read_facts(replies[-2 if watch else -1])
    if shard.incarnation == ANYBODY:
        return None
    if facts.get("shard", shard.id) != shard.id:
        return UnavailableError(f"{shard.address} is {facts.get('shard')} now, not {shard.id}")
    if exact and facts.get("incarnation", "") != shard.incarnation:
        return UnavailableError(f"{shard.unix} belongs to another incarnation of {shard.id}")
    return None


def read_facts(reply: Any) -> dict[str, str]:
    """The name-value pairs of SC.HELLO's answer as text."""
    pairs = list(reply.items()) if isinstance(reply, dict) else list(zip(reply[::2], reply[1::2], strict=True))
    return {_text(name): _text(value) for name, value in pairs}


def _text(raw: Any) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
