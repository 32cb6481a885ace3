"""SCAN: every live key, step by step, without remembering anything between the steps.

The cursor is the number of the next page of memory; then, with `SCAN_DISK` set, the first bits of the next digest of
L3. While a key lives in memory it moves only to later pages (groups.py), and what has left memory is met on disk or, if
it is not there yet, listed when the scan comes to the disk. So a key that is there during the whole scan is listed at
least once, unless it is read back from disk and its record evicted from there, both meanwhile.

Invariants: what is dead is not listed; a step costs `count` keys, a page and `SCAN_DEAD_MAX` dead entries, or at most
`SCAN_RECORDS_MAX` records; the one that comes to the disk lists besides all that waits to be written there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from .levels.disk import DiskLevel
    from .residents import Residents

SCAN_DISK: Final = 1 << 48  # this bit of a cursor says that the scan has come to the disk,
SCAN_SHIFT: Final = 128 - 48  # and the bits below are the first ones of the digest where it goes on
SCAN_DEAD_MAX: Final = 1024  # entries waiting to be swept that one step passes over
SCAN_RECORDS_MIN: Final = 16  # more than can share these bits, so that every step gets on
SCAN_RECORDS_MAX: Final = 512  # 1 to 2 ms


class Scanner:
    """Lists the keys of one node."""

    def __init__(self, residents: Residents, l3: DiskLevel | None, now_ms: Callable[[], int]) -> None:
        self._residents = residents
        self._l3 = l3
        self._now_ms = now_ms

    def scan(self, cursor: int, count: int, match: Callable[[bytes], bool] | None = None) -> tuple[int, list[bytes]]:
        """List live keys from `cursor` on; gives the next cursor (0: the end) and about `count` keys.

        Keys that lie in memory and on disk, or on the way there, are listed twice.
        """
        if cursor & SCAN_DISK:
            return self._scan_disk(cursor, count, match)
        now_ms = self._now_ms()
        pages = self._residents.groups.pages
        found: list[bytes] = []
        seen = dead = 0
        while cursor < len(pages) and seen < count and dead < SCAN_DEAD_MAX:
            page = pages[cursor]
            cursor += 1
            if page is None:
                continue
            alive = [entry.key for entry in page.entries if entry.expires_ms > now_ms]
            seen += len(alive)
            dead += len(page.entries) - len(alive)
            found.extend(alive if match is None else filter(match, alive))
        if cursor < len(pages):
            return cursor, found
        if self._l3 is None or not self._l3.on:
            return 0, found
        # What left memory and is not in the file yet would be missed by both halves, even if it has come back since.
        pending = self._l3.pending_keys()
        found.extend(pending if match is None else filter(match, pending))
        return SCAN_DISK, found

    def _scan_disk(self, cursor: int, count: int, match: Callable[[bytes], bool] | None) -> tuple[int, list[bytes]]:
        """Go on with the records of L3; the cursor holds the first bits of the next digest."""
        if self._l3 is None:
            return 0, []
        start = ((cursor & SCAN_DISK - 1) << SCAN_SHIFT).to_bytes(16, "big")
        following, keys = self._l3.scan(start, min(max(count, SCAN_RECORDS_MIN), SCAN_RECORDS_MAX))
        found = keys if match is None else list(filter(match, keys))
        return (SCAN_DISK | int.from_bytes(following, "big") >> SCAN_SHIFT if following else 0), found
