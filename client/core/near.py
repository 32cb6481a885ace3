"""The near cache: L1 in the client's own process, kept true by pushes from every shard.

What one shard's pushes vouch for is a `Part`. A part is alive while something was heard of its shard within the push
deadline; a gap in the sequence, a lost connection or silence ends it, and with it, at once, everything held of that
shard. Time in which the machine slept counts as silence. Admission passes two gates (`stamps.py`): the shard's push
sequence, because reply and push travel on different connections, and this process's own writes, so that a client reads
what it wrote.

Invariants: an entry is served only while its part is alive and its age and TTL allow; used bytes never exceed the
budget; what a caller is given can't change what is held (values that could are held as payload and decoded anew);
one lock guards every change, and a hit takes none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from stratacache.client.core.dispatch import ask_owners
from stratacache.client.core.effects import Call, Command, Exchange, Operation
from stratacache.client.core.getx import GetxPlan
from stratacache.client.core.reads import slices
from stratacache.client.core.stamps import ALL, KEYS, NAMESPACE, TAGS, Stamps
from stratacache.client.view import View
from stratacache.node.errors import CacheError
from stratacache.node.keys import namespace_of
from stratacache.node.types import MISS

if TYPE_CHECKING:
    from stratacache.client.core.state import Core

OVERHEAD_BYTES = 400  # an entry's own objects: slots, key, dictionary and index places
LARGEST_SHARE = 8  # an entry may take up to 1/8 of the budget
TOUCHED_PER_COMMAND = 512
_UNCHANGEABLE = frozenset(
    {bytes, str, int, float, bool, complex, type(None), datetime, date, time, timedelta, Decimal, UUID}
)
_OWN_COMMANDS = {b"SC.INVTAGS": TAGS, b"SC.INVNS": NAMESPACE, b"SC.CLEAR": ALL}


class Part:
    """What one connection to one shard vouches for. It ends once and never lives again."""

    __slots__ = ("alive_until", "heard_by", "seq", "shard_id", "stamps")

    def __init__(self, shard_id: str, heard_by: float) -> None:
        self.shard_id = shard_id
        self.alive_until = 0.0
        self.heard_by = heard_by  # the next thing; else it is silent, and ends
        self.seq = -1  # of the last push; -1: none heard yet
        self.stamps = Stamps()


class NearEntry:
    """A held value, or the payload of one that a caller could change."""

    __slots__ = ("codec", "expires", "hits", "key", "namespace", "part", "payload", "size", "tags", "used", "value")

    def __init__(self, key: bytes, part: Part, expires: float, codec: int, payload: Any, value: Any) -> None:
        self.key = key
        self.part = part
        self.expires = expires
        self.codec = codec
        self.payload = payload  # None: `value` itself may be handed out
        self.value = value
        self.size = 0
        self.namespace = b""
        self.tags: Sequence[bytes] = ()
        self.hits = 0  # not yet reported to the shard
        self.used = False


class Ticket:
    """The state of the gates when a reply was asked for."""

    __slots__ = ("generation", "now", "own", "parts")

    def __init__(self, now: float, generation: int, own: int, parts: dict[str, Part]) -> None:
        self.now = now
        self.generation = generation
        self.own = own
        self.parts = parts


class NearCache:
    """Values by full key, with the gates and the indexes that pushes need."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._bytes_max = core.options.near_bytes_max
        self._lock = threading.Lock()
        self.entries: dict[bytes, NearEntry] = {}
        self.used_bytes = 0
        self._groups: dict[tuple[str, bytes], set[bytes]] = {}
        self._parts: dict[str, Part] = {}  # replaced, never changed: a ticket keeps the one of its time
        self._generation = 0
        self._own = Stamps()
        self._touched: list[NearEntry] = []
        self.evicted = 0
        self.pushes = 0
        self.refused = 0
        self.listen: Callable[[], None] = _nobody_watches  # set by the shell: begin to listen if nobody does

    # -- reading -------------------------------------------------------------------------------------------------

    def lookup(self, key: bytes) -> Any:
        """The value held under a full key, or MISS. Takes no lock."""
        entry = self.entries.get(key)
        if entry is None:
            return MISS
        now = self._core.elapsed()
        if entry.part.alive_until < now or entry.expires < now:
            return MISS
        if not entry.hits:
            self._touched.append(entry)
        entry.hits += 1
        entry.used = True
        self._core.counters.near_hits += 1
        if entry.payload is None:
            return entry.value
        return self._core.decode(entry.codec, entry.payload)

    def fetch(self, core: Core, keys: Sequence[bytes]) -> Operation[tuple[list[Any], dict[int, CacheError]]]:
        """As `reads.fetch`, from here or from the shards; what comes from there is kept if the gates allow."""
        values = [self.lookup(key) for key in keys]
        asked = [index for index, value in enumerate(values) if value is MISS]
        if not asked:
            return values, {}
        self.listen()
        plan = GetxPlan(core, self, [keys[index] for index in asked])
        failed = yield from ask_owners(core, [keys[index] for index in asked], plan, deadline=core.deadline())
        core.counters.hits += len(plan.values)
        core.counters.misses += len(asked) - len(plan.values)
        for at, value in plan.values.items():
            values[asked[at]] = value
        return values, {asked[at]: error for at, error in failed.items()}

    # -- admission -----------------------------------------------------------------------------------------------

    def ticket(self) -> Ticket:
        """Take the numbers of the gates, before asking."""
        return Ticket(self._core.elapsed(), self._generation, self._own.newest, self._parts)

    def admit(self, key: bytes, reply: Sequence[Any], value: Any, shard_id: str, ticket: Ticket) -> bool:
        """Keep what SC.GETX answered, unless something touched it since it was asked for."""
        codec, payload, ttl_ms, _, _, seq, tags = reply[:7]
        part = ticket.parts.get(shard_id)
        size = len(key) + len(payload) + OVERHEAD_BYTES
        if part is None or size * LARGEST_SHARE > self._bytes_max:
            return False
        options = self._core.options
        expires = ticket.now + (min(options.near_age_max_s, ttl_ms / 1000) if ttl_ms >= 0 else options.near_age_max_s)
        shareable = options.near_frozen or type(value) in _UNCHANGEABLE or _is_read_only_array(value)
        held_payload, held_value = (None, value) if shareable else (payload, None)
        entry = NearEntry(key, part, expires, codec, held_payload, held_value)
        entry.size, entry.tags, entry.namespace = size, tags, namespace_of(key)
        with self._lock:
            current = (
                self._parts.get(shard_id) is part
                and ticket.generation == self._generation
                and part.stamps.admits(key, entry.namespace, tags, seq)
                and self._own.admits(key, entry.namespace, tags, ticket.own)
            )
            if not current:
                self.refused += 1
                return False
            self._remove(key)
            self._make_room(size)
            self.entries[key] = entry
            self.used_bytes += size
            for group in _groups_of(entry):
                self._groups.setdefault(group, set()).add(key)
        return True

    def _make_room(self, size: int) -> None:
        """Second chance: the oldest goes, unless it was used since it last stood there."""
        while self.used_bytes + size > self._bytes_max:
            key = next(iter(self.entries))
            entry = self.entries[key]
            if entry.used:
                entry.used = False
                del self.entries[key]
                self.entries[key] = entry
            else:
                self._remove(key)
                self.evicted += 1

    def _remove(self, key: bytes) -> None:
        entry = self.entries.pop(key, None)
        if entry is None:
            return
        self.used_bytes -= entry.size
        for group in _groups_of(entry):
            members = self._groups.get(group)
            if members is not None:
                members.discard(key)
                if not members:
                    del self._groups[group]

    # -- what is touched -----------------------------------------------------------------------------------------

    def own_write(self, keys: Iterable[bytes]) -> None:
        """This process changes keys: called before the command is sent and after its outcome is known."""
        self._touch(KEYS, list(keys))

    def own_command(self, command: Command) -> None:
        """This process invalidates by tag, by namespace, or everything."""
        self._touch(_OWN_COMMANDS[command[0]], list(command[1:]))

    def _touch(self, kind: str, names: list[bytes]) -> None:
        with self._lock:
            self._own.note(kind, names, self._own.newest + 1)
            self._drop(kind, names)

    def _drop(self, kind: str, names: Sequence[bytes]) -> None:
        if kind == KEYS:
            for name in names:
                self._remove(name)
        elif kind in (TAGS, NAMESPACE):
            for name in names:
                for key in list(self._groups.get((kind, name), ())):
                    self._remove(key)
        else:
            self._drop_all()

    def _drop_all(self) -> None:
        self.entries.clear()
        self._groups.clear()
        self.used_bytes = 0

    # -- what the watcher hears ----------------------------------------------------------------------------------

    def begin(self, shard_id: str) -> Part:
        """A connection watches a shard from now on; its part comes alive with the first thing heard."""
        with self._lock:
            self._end(shard_id)
            part = Part(shard_id, self._core.elapsed() + self._core.options.push_deadline_s)
            self._parts = {**self._parts, shard_id: part}
            return part

    def end(self, part: Part) -> None:
        """The connection is gone, silent or out of step: nothing of this part is served from here on."""
        with self._lock:
            if self._parts.get(part.shard_id) is part:
                self._end(part.shard_id)

    def _end(self, shard_id: str) -> None:
        part = self._parts.get(shard_id)
        if part is None:
            return
        part.alive_until = 0.0  # every entry of it is dead with this one assignment; the rest is tidying
        self._parts = {name: each for name, each in self._parts.items() if name != shard_id}
        if part.seq >= 0:
            self._core.counters.near_cleared += 1
        for key in [key for key, entry in self.entries.items() if entry.part is part]:
            self._remove(key)

    def hear(self, part: Part, message: Sequence[Any]) -> bool:
        """Apply one push; False when the part is out of step and must end."""
        word, seq = bytes(message[0]), int(message[1])
        if word == b"sc.beat":
            if part.seq < 0:
                part.stamps = Stamps(seq)
                part.seq = seq
            return seq == part.seq
        if word != b"sc.inv":
            return True
        kind, names = bytes(message[2]).decode(), message[3]
        with self._lock:
            if part.seq >= 0 and seq != part.seq + 1:
                return False
            if part.seq < 0:
                part.stamps = Stamps(seq)
            part.seq = seq
            self.pushes += 1
            part.stamps.note(kind, names, seq)
            self._drop(kind, names)
        return True

    def heard(self, part: Part, at: float) -> None:
        """Everything that was sent before `at` has been applied: the part is good for another push deadline.

        Not when it had been silent for that long: after its sleep a machine finds in its buffers what was sent before,
        and what was sent meanwhile is still on its way.
        """
        if part.seq >= 0 and at <= part.heard_by and self._parts.get(part.shard_id) is part:
            part.alive_until = part.heard_by = at + self._core.options.push_deadline_s

    def is_silent(self, part: Part) -> bool:
        """Whether nothing was heard of it for the push deadline: its connection is to be ended."""
        return part.heard_by < self._core.elapsed()

    def view_changed(self, view: View) -> None:  # noqa: ARG002 - a listener of views
        """Keys may have moved to shards whose pushes do not cover what is held: begin anew."""
        with self._lock:
            self._generation += 1
            self._drop_all()

    # -- reporting -----------------------------------------------------------------------------------------------

    def report(self) -> Operation[None]:
        """Tell the shards of the hits that were served here, so that they keep what is in use."""
        touched, self._touched = self._touched, []
        counts: dict[str, dict[bytes, int]] = {}
        for entry in touched:
            hits, entry.hits = entry.hits, 0
            of_shard = counts.setdefault(entry.part.shard_id, {})
            of_shard[entry.key] = of_shard.get(entry.key, 0) + hits
        by_id = self._core.view.by_id
        calls: list[Call] = []
        for shard_id, of_shard in counts.items():
            if shard_id in by_id:
                pairs = list(of_shard.items())
                commands: list[Command] = [
                    (b"SC.TOUCHED", *[part for at in run for part in pairs[at]])
                    for run in slices(list(range(len(pairs))), TOUCHED_PER_COMMAND)
                ]
                calls.append(Call(by_id[shard_id], commands))
        if calls:
            options = self._core.options  # whoever reports also listens: a shard that hangs must not make it deaf
            soon = min(options.deadline_s, options.push_deadline_s / 2)
            yield Exchange(calls, self._core.monotonic() + soon)

    def stats(self) -> dict[str, int]:
        """Numbers for stats()."""
        now = self._core.elapsed()
        return {
            "entries": len(self.entries),
            "bytes": self.used_bytes,
            "bytes_max": self._bytes_max,
            "evicted": self.evicted,
            "refused": self.refused,
            "pushes": self.pushes,
            "live_parts": sum(part.alive_until >= now for part in self._parts.values()),
        }

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong. For tests."""
        with self._lock:
            assert self.used_bytes == sum(entry.size for entry in self.entries.values()), "bytes do not add up"
            assert self.used_bytes <= self._bytes_max, "over the budget"
            groups: dict[tuple[str, bytes], set[bytes]] = {}
            for key, entry in self.entries.items():
                for group in _groups_of(entry):
                    groups.setdefault(group, set()).add(key)
            assert groups == self._groups, "an index disagrees with the entries"

    def reset_after_fork(self) -> None:
        """The child has no watcher yet: nothing is held until it has one."""
        self._lock = threading.Lock()
        self._generation += 1
        self._parts = {}
        self._touched = []
        self._drop_all()


def _groups_of(entry: NearEntry) -> list[tuple[str, bytes]]:
    return [(NAMESPACE, entry.namespace), *[(TAGS, tag) for tag in entry.tags]]


def _is_read_only_array(value: Any) -> bool:
    flags = getattr(value, "flags", None)
    return flags is not None and getattr(flags, "writeable", True) is False and value.dtype.kind != "O"


def _nobody_watches() -> None:
    """Stands in until a shell offers a watcher."""
