"""The command table: what every command is called, what it takes, whom it is for, and which function runs it.

Everything that must agree about commands reads this one table: dispatch, AUTH and the read-only token, routing to the
owner of the keys, COMMAND, and the test that holds docs/PROTOCOL.md to it.

Invariants: names are upper case and unique; a handler is called only with an argument count that fits `arity`; a
command without READ, WRITE or an administrative flag touches no data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntFlag
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

    from stratacache.node.resp.connection import Connection


class Access(IntFlag):
    """What a connection may do; grows with the token it showed."""

    NONE = 0
    READ = 1
    FULL = 3


class Flag(IntFlag):
    """What dispatch must know about a command before it runs it."""

    NONE = 0
    READ = 1  # reads entries
    WRITE = 2  # changes entries: needs full access
    ADMIN = 4  # about other clients or the node: needs full access
    NO_AUTH = 8  # allowed before AUTH
    NO_MULTI = 16  # runs at once inside MULTI, or refuses by itself
    SPANS = 32  # is about all shards, not about keys
    INVALIDATES = 64  # removes by tag, namespace or everything: held back while a view changes


class Later:
    """A reply that is not known yet: the connection waits for `future`, then answers `then(result)`.

    `then` may raise like a handler and may return a Later itself. With `cancel` the future is cancelled when the client
    goes away before it is done. `applied`: the command has had its effect and only its acknowledgement waits (for the
    disk), so the commands behind it may run meanwhile; their replies wait. With `catches`, `then` is called whatever
    becomes of the future, and is given the future itself.
    """

    __slots__ = ("applied", "cancel", "catches", "future", "then")

    def __init__(
        self,
        future: Future[Any] | asyncio.Future[Any],
        then: Callable[[Any], Reply],
        *,
        cancel: bool = False,
        applied: bool = False,
        catches: bool = False,
    ) -> None:
        self.future = future
        self.then = then
        self.cancel = cancel
        self.applied = applied
        self.catches = catches


Reply = bytes | Later
Handler = Callable[["Connection", list[bytes]], Reply]


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `arity` counts the name, too; negative: at least that many.

    `first`, `last`, `step` say where keys stand, as in COMMAND (0: none; last -1: to the end). `subcommands` by their
    upper-case names; then `handler` is not called.
    """

    name: str
    arity: int
    flags: Flag
    handler: Handler
    first: int = 0
    last: int = 0
    step: int = 0
    summary: str = ""
    group: str = "string"
    subcommands: dict[bytes, Command] = field(default_factory=dict)
    find_keys: Callable[[list[bytes]], list[bytes]] | None = None  # where keys stand at no regular places
    # What dispatch asks of the flags, worked out once: operations on an IntFlag are slow.
    least: int = field(init=False)
    most: int = field(init=False)
    """How many arguments it takes, with its name."""
    access: Access = field(init=False)
    """What a connection needs to run it."""
    touches_data: bool = field(init=False)
    """Whether a shard that may not serve must refuse it."""
    reads: bool = field(init=False)
    invalidates: bool = field(init=False)
    queues: bool = field(init=False)
    """Whether MULTI queues it."""

    def __post_init__(self) -> None:
        flags = self.flags
        access = Access.FULL if flags & (Flag.WRITE | Flag.ADMIN) else Access.READ
        for name, value in (
            ("least", abs(self.arity)),
            ("most", self.arity if self.arity > 0 else sys.maxsize),
            ("access", Access.NONE if flags & Flag.NO_AUTH else access),
            ("touches_data", bool(flags & (Flag.READ | Flag.WRITE))),
            ("reads", bool(flags & Flag.READ)),
            ("invalidates", bool(flags & Flag.INVALIDATES)),
            ("queues", not flags & Flag.NO_MULTI),
        ):
            object.__setattr__(self, name, value)

    def fits(self, count: int) -> bool:
        """Whether `count` arguments (with the name) are allowed."""
        return self.least <= count <= self.most

    def keys(self, argv: list[bytes]) -> list[bytes]:
        """The arguments that are keys, as they were sent."""
        if self.find_keys is not None:
            return self.find_keys(argv)
        if not self.first:
            return []
        end = len(argv) if self.last < 0 else self.last + 1
        return argv[self.first : end : self.step]


COMMANDS: Final[dict[bytes, Command]] = {}
"""Every command by its upper-case name; filled when `stratacache.node.resp.commands` is imported."""


def command(
    name: str,
    arity: int,
    flags: Flag = Flag.NONE,
    keys: tuple[int, int, int] = (0, 0, 0),
    *,
    group: str = "string",
    find_keys: Callable[[list[bytes]], list[bytes]] | None = None,
) -> Callable[[Handler], Handler]:
    """Enter the decorated handler into the table. `client|list` enters a subcommand of `client`."""

    def enter(handler: Handler) -> Handler:
        summary = (handler.__doc__ or "").strip().split("\n", maxsplit=1)[0]
        made = Command(name, arity, flags, handler, *keys, summary=summary, group=group, find_keys=find_keys)
        parent, _, sub = name.upper().encode().partition(b"|")
        where = COMMANDS[parent].subcommands if sub else COMMANDS
        assert (sub or parent) not in where, f"{name} is in the table twice"
        where[sub or parent] = made
        return handler

    return enter


def find(name: bytes, argument: bytes | None = None) -> Command | None:
    """Look a command up, and its subcommand if it has any; None when there is none of that name."""
    found = COMMANDS.get(name) or COMMANDS.get(name.upper())
    if found is None or not found.subcommands or argument is None:
        return found
    return found.subcommands.get(argument.upper())
