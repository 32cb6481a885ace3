"""Groups: the index of tags and namespaces, at no cost per entry when tags are shared.

Entries with the same namespace, tags and codec form a Group, and stand in pages of up to 256. So a tag leads to its
groups, a group to its pages, a page to its entries: killing a tag walks pages and can be done in slices. The pages
also serve as the order for SCAN and for active expiry: while a key lives in memory it moves only to later pages.

Invariants: a group exists exactly as long as it has entries (the plain group of a namespace as long as the namespace),
a tag exactly as long as it has a group, so the tables are bounded by the entries and a tag is never lost before
its entries; an entry stands in one page, at `page.entries[entry.slot]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .errors import LimitError, UsageError
from .keys import DEFAULT_NAMESPACE
from .policies.base import NEVER_MS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .entry import Entry
    from .insight import Tally

PAGE_ENTRIES_MAX: Final = 256  # slots stay below 257: CPython shares these ints, so a slot costs no object
TAGS_MAX: Final = 64
CODEC_MAX: Final = 0xFFFF
TAG_BYTES_MAX: Final = 1024
NAMESPACES_IDLE_MAX: Final = 4096
NAMESPACES_NAMED_MAX: Final = 256
"""How many statistics name; the others are one. Who gives each user a namespace would have them grow beyond all use."""
GROUP_BYTES: Final = 1280
"""Charged for a group with tags: the objects of the group, its first page, its places in the tables."""


class Page:
    """Up to 256 entries of one group. `soonest_ms`: none of them expires before, so that expiry can pass it by."""

    __slots__ = ("entries", "group", "index", "soonest_ms")

    def __init__(self, group: Group, index: int) -> None:
        self.group = group
        self.index = index
        self.entries: list[Entry] = []
        self.soonest_ms = NEVER_MS


class Group:
    """Entries that share namespace, tags and codec.

    `filling` is the page that takes the next entry; `open_pages` are others with room. `tally` is where insight.py
    counts for it.
    """

    __slots__ = ("codec", "filling", "namespace", "open_pages", "pages", "size", "tags", "tally")

    def __init__(self, namespace: Namespace, tags: tuple[bytes, ...], codec: int) -> None:
        self.namespace = namespace
        self.tags = tags
        self.codec = codec
        self.pages: dict[Page, None] = {}
        self.open_pages: dict[Page, None] = {}
        self.filling: Page | None = None
        self.size = GROUP_BYTES + sum(map(len, tags)) if tags else 0
        self.tally: Tally | None = None


class Namespace:
    """A namespace: its groups and its counters. `plain` is its group without tags and with codec 0.

    The counters are plain numbers because the hot path adds to them; stats.py reads them.
    """

    __slots__ = (
        "bytes",
        "entries",
        "evicted",
        "expired",
        "groups",
        "hits",
        "invalidated",
        "misses",
        "name",
        "plain",
        "puts",
    )

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.plain: Group | None = None
        self.groups: dict[tuple[tuple[bytes, ...], int], Group] = {}
        self.entries = 0
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.puts = 0
        self.evicted = 0
        self.expired = 0
        self.invalidated = 0


class GroupTable:
    """All groups of a node, found by namespace, by tag, and page by page."""

    def __init__(self) -> None:
        self.namespaces: dict[bytes, Namespace] = {}
        self.named: dict[bytes, Namespace] = {}
        """Those that statistics name: the first to come. One that is not named never is, as long as it is known."""
        self.tags: dict[bytes, dict[Group, None]] = {}  # in order of their making: one seed, one story
        self.pages: list[Page | None] = []
        self._free_indexes: list[int] = []
        self.bytes_used = 0
        self._namespaces_kept = NAMESPACES_IDLE_MAX

    def namespace(self, name: bytes) -> Namespace:
        """Give the record of a namespace, made when it is new."""
        found = self.namespaces.get(name)
        if found is None:
            if len(self.namespaces) > 2 * self._namespaces_kept:
                self._forget_idle_namespaces()
            found = self.namespaces[name] = Namespace(name)
            if len(self.named) < NAMESPACES_NAMED_MAX:
                self.named[name] = found
        return found

    def namespace_of(self, key: bytes) -> Namespace:
        """Give the record of the namespace of a canonical key."""
        at = key.find(b":", 0, 256)
        return self.namespace(DEFAULT_NAMESPACE if at < 0 else key[:at])

    def group_of(self, namespace: bytes, tags: tuple[bytes, ...], codec: int) -> Group:
        """As `group`, by the name of the namespace."""
        return self.group(self.namespace(namespace), tags, codec)

    def _forget_idle_namespaces(self) -> None:
        """Forget the counters of namespaces without entries, so that made-up names can't fill the memory."""
        self.namespaces = {
            name: record for name, record in self.namespaces.items() if record.groups or name == DEFAULT_NAMESPACE
        }
        self.named = {name: record for name, record in self.named.items() if name in self.namespaces}
        self._namespaces_kept = max(NAMESPACES_IDLE_MAX, len(self.namespaces))

    def group(self, namespace: Namespace, tags: tuple[bytes, ...], codec: int) -> Group:
        """Give the group for these tags, made when it is new; raises UsageError or LimitError for bad ones."""
        found = namespace.groups.get((tags, codec))
        if found is not None:
            return found
        if not 0 <= codec <= CODEC_MAX:
            raise UsageError(f"codec={codec} is none: the disk keeps it in two bytes")
        tags = check_tags(tags)
        found = namespace.groups.get((tags, codec))
        if found is None:
            found = Group(namespace, tags, codec)
        return found

    def _enter(self, group: Group) -> None:
        """List a group that gets its first entry."""
        assert (group.tags, group.codec) not in group.namespace.groups
        group.namespace.groups[group.tags, group.codec] = group
        if not group.tags and not group.codec:
            group.namespace.plain = group
        for tag in group.tags:
            self.tags.setdefault(tag, {})[group] = None
        self.bytes_used += group.size

    def _leave(self, group: Group) -> None:
        """Forget a group that lost its last entry."""
        del group.namespace.groups[group.tags, group.codec]
        if group is group.namespace.plain:
            group.namespace.plain = None
        for tag in group.tags:
            groups = self.tags[tag]
            del groups[group]
            if not groups:
                del self.tags[tag]
        self.bytes_used -= group.size

    def add(self, entry: Entry, group: Group, after: int = -1) -> None:
        """Give an entry its place in a group, on no page before number `after`: where a scan may have been already."""
        page = group.filling
        if page is not None and page.index < after:
            if len(page.entries) < PAGE_ENTRIES_MAX:
                group.open_pages[page] = None
            page = group.filling = self._new_page(group, at_end=True)
        elif page is None and after >= 0:
            page = group.filling = self._new_page(group, at_end=True)
        elif page is None or len(page.entries) == PAGE_ENTRIES_MAX:
            reuse = group.open_pages and after < 0
            page = group.filling = group.open_pages.popitem()[0] if reuse else self._new_page(group, at_end=after >= 0)
        entries = page.entries
        entry.page = page
        entry.slot = len(entries)
        entries.append(entry)
        page.soonest_ms = min(page.soonest_ms, entry.expires_ms)

    def _new_page(self, group: Group, *, at_end: bool) -> Page:
        if not group.pages:
            self._enter(group)
        if self._free_indexes and not at_end:
            index = self._free_indexes.pop()
            page = self.pages[index] = Page(group, index)
        else:
            page = Page(group, len(self.pages))
            self.pages.append(page)
        group.pages[page] = None
        return page

    def discard(self, entry: Entry) -> None:
        """Take an entry out of its group."""
        page = entry.page
        entries = page.entries
        last = entries.pop()
        if last is not entry:
            entries[entry.slot] = last
            last.slot = entry.slot
        if not entries:
            self._drop_page(page)
        elif len(entries) == PAGE_ENTRIES_MAX // 2 and page is not page.group.filling:
            page.group.open_pages[page] = None

    def _drop_page(self, page: Page) -> None:
        group = page.group
        if page is group.filling:
            group.filling = None
        group.open_pages.pop(page, None)
        del group.pages[page]
        self.pages[page.index] = None
        self._free_indexes.append(page.index)
        if not group.pages:
            self._leave(group)

    def groups_of_tags(self, tags: Iterable[bytes]) -> list[Group]:
        """Groups that carry any of the tags."""
        found: dict[Group, None] = {}
        for tag in tags:
            found.update(self.tags.get(tag, {}))
        return list(found)

    def validate(self) -> None:
        """Check the internals; raises AssertionError with what is wrong."""
        seen = 0
        for index, page in enumerate(self.pages):
            if page is None:
                continue
            seen += 1
            assert page.index == index
            assert page in page.group.pages
            assert page is not page.group.filling or page not in page.group.open_pages
            assert 0 < len(page.entries) <= PAGE_ENTRIES_MAX
            for slot, entry in enumerate(page.entries):
                assert entry.page is page
                assert entry.slot == slot
                assert entry.expires_ms >= page.soonest_ms or entry.expires_ms == 0
        listed: dict[bytes, dict[Group, None]] = {}
        bytes_used = 0
        for namespace in self.namespaces.values():
            for (tags, codec), group in namespace.groups.items():
                assert (group.tags, group.codec, group.namespace) == (tags, codec, namespace)
                assert group.pages
                assert set(group.open_pages) <= set(group.pages)
                seen -= len(group.pages)
                bytes_used += group.size
                for tag in tags:
                    listed.setdefault(tag, {})[group] = None
        assert seen == 0, "a page without a listed group"
        assert listed == self.tags
        assert bytes_used == self.bytes_used


def check_tags(tags: Iterable[object]) -> tuple[bytes, ...]:
    """Check tags and drop duplicates; raises UsageError for what is no bytes, LimitError past a limit."""
    checked: dict[bytes, None] = {}
    for tag in tags:
        if not isinstance(tag, bytes):
            raise UsageError(f"tag {tag!r} is a {type(tag).__name__}: at the node tags are bytes")
        if not 0 < len(tag) <= TAG_BYTES_MAX:
            raise LimitError(f"a tag has {len(tag)} bytes, allowed are 1 to {TAG_BYTES_MAX}: shorten or hash it")
        checked[tag] = None
    if len(checked) > TAGS_MAX:
        raise LimitError(f"an entry has {len(checked)} tags, the limit is {TAGS_MAX}: tag by fewer properties")
    return tuple(checked)
