"""How an invalidation takes hold: at the gate, in memory, on disk, and then in the answer.

Invariants: the gate hears first, so nothing that was asked for earlier can be stored any more; the answer is given only
when every entry that is covered is dead for every reader and the disk has recorded it; `changed` is told before; who
changes an entry does not find one that is still to be killed.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from .gate import NAMESPACE, TAG
from .handoff import then, then_ask
from .residents import KILL_PAGES
from .types import RemovalCause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .entry import Entry
    from .gate import InvalidationGate
    from .groups import Group, Page
    from .handoff import Handoff
    from .leases import LeaseTable
    from .levels.disk import DiskLevel
    from .levels.store import Covered
    from .residents import Residents


class Killed:
    """What an invalidation with the number `seq` has killed in memory so far, slice by slice.

    `live` entries, of which `stored` lie on disk too, and perhaps those of the keys `written`: they are in `writing`,
    the batch that was under way when it began.
    """

    def __init__(self, seq: int, writing: Mapping[bytes, object]) -> None:
        self.seq = seq
        self.writing = writing
        self.live = 0
        self.stored = 0
        self.written: list[bytes] = []


class Invalidation:
    """Carries out invalidations for one node."""

    def __init__(
        self,
        gate: InvalidationGate,
        leases: LeaseTable,
        residents: Residents,
        l3: DiskLevel | None,
        handoff: Handoff,
        now_ms: Callable[[], int],
        changed: Callable[[str, Sequence[bytes], RemovalCause], None],
    ) -> None:
        self._gate = gate
        self._leases = leases
        self._residents = residents
        self._l3 = l3
        self._handoff = handoff
        self._now_ms = now_ms
        self._changed = changed
        self.under_way: list[tuple[int, set[Group]]] = []
        """The invalidations that kill in slices and are not done, with their numbers and what they cover."""

    def keys(self, keys: Sequence[bytes], cause: RemovalCause = RemovalCause.INVALIDATED) -> int | Future[int]:
        """Invalidate keys; gives the number of live entries among them."""
        now_ms = self._now_ms()
        self._gate.next_seq()
        removed = 0
        l3 = self._l3 if self._l3 is not None and self._l3.takes_changes() else None
        ack: Future[bool] | None = None
        for key in keys:
            self._gate.void_key(key)
            entry = self._residents.find(key)
            live = entry is not None and entry.expires_ms > now_ms
            stored = entry is not None and entry.stored
            if entry is not None:
                self._residents.unlink(entry, cause)
            if l3 is not None:
                if not live:
                    live = l3.holds(key)
                    stored = stored or live
                ack = l3.delete(key, stored=stored)
            removed += live
            self._leases.voided(key, now_ms)
        self._changed("keys", keys, cause)
        if ack is not None:
            return self._handoff.settle(then(ack, lambda _: removed))
        return removed

    def tags(self, names: tuple[bytes, ...]) -> int | Future[int]:
        """Invalidate everything that carries any of the tags; gives the number of live entries."""
        names = tuple(dict.fromkeys(names))
        seq = self._gate.mark_tags(names)
        on_disk = self._l3.invalidate(TAG, names, seq) if self._l3 is not None else None
        return self._kill(self._residents.groups.groups_of_tags(names), seq, on_disk, ("tags", names))

    def namespace(self, name: bytes) -> int | Future[int]:
        """Invalidate everything in a namespace; gives the number of live entries."""
        seq = self._gate.mark_namespace(name)
        on_disk = self._l3.invalidate(NAMESPACE, (name,), seq) if self._l3 is not None else None
        record = self._residents.groups.namespaces.get(name)
        groups = list(record.groups.values()) if record is not None else []
        return self._kill(groups, seq, on_disk, ("namespace", (name,)))

    def everything(self) -> int | Future[int]:
        """Invalidate everything; gives the number of live entries."""
        seq = self._gate.mark_clear()
        on_disk = self._l3.clear(seq) if self._l3 is not None else None
        groups = [group for record in self._residents.groups.namespaces.values() for group in record.groups.values()]
        return self._kill(groups, seq, on_disk, ("all", ()))

    def _kill(
        self, groups: list[Group], seq: int, on_disk: Future[Covered] | None, change: tuple[str, tuple[bytes, ...]]
    ) -> int | Future[int]:
        """Kill what lies in memory, in slices where the owner has other things to do, and wait for the disk."""
        pages = [page for group in groups for page in group.pages]
        killed: Future[Killed] = Future()
        self._kill_slice(pages, 0, Killed(seq, self._l3.writing if self._l3 is not None else {}), killed)
        if not killed.done():
            mark = (seq, set(groups))
            self.under_way.append(mark)
            killed.add_done_callback(lambda _: self.under_way.remove(mark))

        def count(in_memory: Killed, covered: Covered | None) -> int:
            self._changed(*change, RemovalCause.INVALIDATED)
            # Most records on disk are also in memory: count those once.
            if covered is None:
                return in_memory.live
            twice = in_memory.stored + len(covered.keys.intersection(in_memory.written))
            return in_memory.live + max(0, covered.records - twice)

        if on_disk is None:
            return self._handoff.settle(then(killed, lambda in_memory: count(in_memory, None)))

        def wait_for_disk(in_memory: Killed) -> Future[int]:
            return then(on_disk, lambda covered: count(in_memory, covered))

        return self._handoff.settle(then_ask(killed, wait_for_disk))

    def is_doomed(self, entry: Entry) -> bool:
        """Whether an invalidation that is under way covers an entry, and has not come to it yet."""
        return any(entry.version <= seq and entry.page.group in groups for seq, groups in self.under_way)

    def _kill_slice(self, pages: list[Page], start: int, so_far: Killed, killed: Future[Killed]) -> None:
        post = self._handoff.post
        stop = len(pages) if post is None else start + KILL_PAGES
        self._residents.kill(pages[start:stop], so_far)
        if post is None or stop >= len(pages):
            killed.set_result(so_far)
        else:
            post(lambda: self._kill_slice(pages, stop, so_far, killed))
