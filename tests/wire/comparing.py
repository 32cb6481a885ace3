"""Replies of a node beside those of a redis-server."""

from __future__ import annotations

from typing import Any

CLOSE_MS = 3_000
FAR_MS = 4_000_000_000_000_000
"""Expiries beyond are cut by the node (docs/PROTOCOL.md)."""


def is_same(ours: Any, theirs: Any) -> bool:
    """Whether two replies are the same but for what must differ: time, ids, versions, cursors, the order of keys."""
    if ours == theirs:
        return True
    if ours[0] != theirs[0]:
        return False
    if ours[0] == ":":
        one, other = int(ours[1]), int(theirs[1])
        return min(one, other) > CLOSE_MS and (abs(one - other) <= CLOSE_MS or max(one, other) > FAR_MS)
    if ours[0] not in "*%" or None in (ours[1], theirs[1]) or len(ours[1]) != len(theirs[1]):
        return False
    first = ours[1][0] if ours[1] else None
    if first in (("$", b"server"), (("$", b"server"), ("$", b"redis"))):  # HELLO: version and id are each server's own
        return bool(first == theirs[1][0])
    if first == ("$", b"unsubscribe"):  # from all channels, in any order
        return bool((first, ours[1][2]) == (theirs[1][0], theirs[1][2]))
    if ours[0] == "*" and (is_unfinished_scan(ours) or is_unfinished_scan(theirs)):
        return True
    pairs = zip(ours[1], theirs[1], strict=True)
    return sorted(map(repr, ours[1])) == sorted(map(repr, theirs[1])) or all(is_same(*pair) for pair in pairs)


def is_unfinished_scan(reply: Any) -> bool:
    """Whether a reply is a step of SCAN behind which others follow: how much each step brings is the server's own."""
    match reply:
        case ("*", [("$", bytes(cursor)), ("*", _)]):
            return cursor.isdigit() and cursor != b"0"
    return False
