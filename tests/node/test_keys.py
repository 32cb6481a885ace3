"""Full keys have one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratacache.node.errors import LimitError, UsageError
from stratacache.node.keys import canonical, full_key, namespace_of, split_key


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a", b"a"),
        (b"default:a", b"a"),
        (b"default:a:b", b"default:a:b"),
        (b"docs:a", b"docs:a"),
        (b"default:" + b"x" * 256 + b":y", b"x" * 256 + b":y"),
        (b"default:", b"default:"),
    ],
)
def test_canonical_is_the_shortest_form(raw: bytes, expected: bytes) -> None:
    """The default namespace's prefix is left out exactly where the rest can't be read otherwise."""
    assert canonical(raw) == expected


@given(st.text("ab:", min_size=1).map(str.encode) | st.binary(min_size=1))
def test_canonical_is_idempotent_and_keeps_the_namespace(raw: bytes) -> None:
    """Two spellings never become two entries."""
    key = canonical(raw)
    assert canonical(key) == key
    assert namespace_of(key) == namespace_of(raw)
    assert split_key(key)[0] == namespace_of(key)


@given(st.sampled_from(["default", "docs", "d" * 255]), st.binary(min_size=1) | st.text(":a", min_size=1))
def test_full_key_splits_into_what_it_was_made_of(namespace: str, key: bytes | str) -> None:
    """Join and split are inverse, for any bytes in the key."""
    full = full_key(namespace, key)
    assert canonical(full) == full
    assert split_key(full) == (namespace.encode(), key.encode() if isinstance(key, str) else key)


def test_limits_are_named() -> None:
    """Empty, too long, or with a colon in the namespace: clear errors."""
    with pytest.raises(LimitError, match="255"):
        full_key("n" * 256, "a")
    with pytest.raises(UsageError, match="colon"):
        full_key("a:b", "a")
    with pytest.raises(LimitError, match="empty"):
        full_key("a", "")
    with pytest.raises(LimitError, match="65536"):
        full_key("default", "k" * 65537)
    assert len(full_key("default", "k" * 65536)) == 65536
