"""Keys: the same input has the same key everywhere, distinct inputs have distinct keys, the rest is refused by path."""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratacache.client.canonical import canonical_parts
from stratacache.client.keys import digest, key_for
from stratacache.node.errors import EncodingError, UsageError
from stratacache.node.types import AIOperation
from tests.client_api.samples import Prompt, Request, keys

GOLDEN = json.loads((Path(__file__).parent / "golden_keys.json").read_text())


def test_golden_keys_hold_in_this_process() -> None:
    """A changed byte of the encoding would silently empty every cache: these keys are pinned."""
    assert keys() == GOLDEN


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_golden_keys_hold_in_other_processes(seed: str) -> None:
    """Keys do not depend on PYTHONHASHSEED, so neither on the order of sets nor on the builtin hash."""
    output = subprocess.run(
        [sys.executable, "-c", "import json; from tests.client_api.samples import keys; print(json.dumps(keys()))"],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    assert json.loads(output) == GOLDEN


def test_every_sample_has_a_key_of_its_own() -> None:
    """1, 1.0, True, "1", every dtype, shape, container and class differ."""
    assert len(set(GOLDEN.values())) == len(GOLDEN)


def test_key_form() -> None:
    """The key begins with the operation and ends with 32 hex digits; no parameters are empty parameters."""
    key = key_for(AIOperation.EMBED, "x")
    assert key.startswith("embed:")
    assert len(key) == len("embed:") + 32
    assert key == key_for("embed", "x", {}) == key_for("embed", "x", None)
    assert key != key_for("embed", "x", {"a": None})
    assert digest("a", "b") != digest("b", "a")


def text(content: str) -> bytes:
    """A text with its length, as docs/KEYS_AND_CODECS.md writes it."""
    data = content.encode()
    return b"%d:%b" % (len(data), data)


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("a chunk", b"s" + text("a chunk")),
        ([-255, 1.5, None, True], b"l4:i-ff;f" + struct.pack(">d", 1.5) + b"NT"),
        ({"b": 1, "a": (b"x",)}, b"d2:s1:at1:b1:xs1:bi1;"),
        ({2, "a"}, b"S2:i2;s1:a"),
        (dt.datetime(2026, 2, 3, 4, 5, 6, tzinfo=dt.UTC), b"M" + text("2026-02-03T04:05:06|0|0:00:00|UTC|")),
        (
            np.arange(6, dtype="<f4").reshape(2, 3),
            b"a" + text("numpy.ndarray") + b"l2:s3:<f4l2:i2;i3;24:" + np.arange(6, dtype="<f4").tobytes(),
        ),
        (Prompt("x"), b"o" + text("tests.client_api.samples.Prompt") + b"2:" + text("options") + b"d0:4:texts1:x"),
    ],
)
def test_the_documented_encoding(value: Any, encoding: bytes) -> None:
    """What the page for other languages says is what is hashed, byte for byte."""
    parameters = b"d1:" + b"s" + text("model") + b"s" + text("minilm")
    digits = blake2b(encoding + parameters, digest_size=16, person=b"stratacache/k1").hexdigest()
    assert key_for("embed", value, {"model": "minilm"}) == f"embed:{digits}"


def test_order_of_dicts_and_sets_does_not_matter() -> None:
    """Only OrderedDict promises an order, and only there it counts."""
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({i * 997 for i in range(50)}) == digest({i * 997 for i in reversed(range(50))})


def test_an_array_is_known_by_content_not_by_memory() -> None:
    """A transposed, strided or reversed view has the key of the array it equals; str() never shortens it."""
    array = np.arange(24, dtype="<i4").reshape(4, 6)
    assert digest(array.T) == digest(np.ascontiguousarray(array.T))
    assert digest(array[::2, ::-1]) == digest(array[::2, ::-1].copy())
    large = np.zeros(5000)
    other = large.copy()
    other[2500] = 1e-300
    assert str(large) == str(other), "this is how the seed's keys collided"
    assert digest(large) != digest(other)


def test_dataclass_and_model_fields_count() -> None:
    """Every field of a dataclass or pydantic model is part of the key; a memoised property is not."""

    @dataclass
    class Document:
        text: str
        score: float = field(default=0.0, compare=False)

        @functools.cached_property
        def length(self) -> int:
            return len(self.text)

    document = Document("abc")
    before = digest(document)
    assert document.length == 3
    assert digest(document) == before
    assert digest(Document("abc", 1.0)) != before
    assert digest(Prompt("a")) != digest(Prompt("b"))
    assert digest(Request(model="a")) == digest(Request(model="a", temperature=0.0))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "input:"),
        ([1, object()], "input[1]:"),
        ({"a": {"b": (lambda: 1,)}}, "input['a']['b'][0]:"),
        ({"a": Prompt("x", {"lock": threading.Lock()})}, "input['a'].options['lock']:"),
        (Request.model_construct(model=object()), "input.model:"),
        (np.array([1, object()], dtype=object), "input[1]:"),
        ({1, print}, "input (member "),
    ],
)
def test_what_has_no_content_is_refused_with_its_path(value: Any, path: str) -> None:
    """Functions, locks and plain objects would be known by their address only."""
    with pytest.raises(EncodingError, match="part of a cache key") as caught:
        key_for("embed", value)
    assert str(caught.value).startswith(path)


def test_parameters_are_named_in_the_path() -> None:
    """The error says whether the input or a parameter was at fault."""
    with pytest.raises(EncodingError, match=r"^parameters\['tokenizer'\]: "):
        key_for("embed", "x", {"tokenizer": object()})


def test_a_value_that_contains_itself_is_refused() -> None:
    """No recursion error, no endless loop."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodingError, match="contain itself"):
        key_for("embed", value)


def test_a_subclass_that_hides_state_is_refused() -> None:
    """A datetime with nanoseconds (as pandas has it) must not be taken for a datetime."""

    class Nanoseconds(int):
        def __reduce__(self) -> Any:
            return Nanoseconds, (int(self),)

    with pytest.raises(EncodingError):
        key_for("embed", Nanoseconds(1))


@pytest.mark.parametrize("operation", ["", "a:b", 7, "x" * 201])
def test_a_bad_operation_is_refused(operation: Any) -> None:
    """The operation is the key's first part: it can't be empty, long, or hold the separator."""
    with pytest.raises(UsageError):
        key_for(operation, 1)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.dates()
    | st.decimals(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Same type and same content, the slow and obvious way."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            any(same(key, other) and same(item, b[other]) for other in b) for key, item in a.items()
        )
    return str(a) == str(b) if not isinstance(a, frozenset) else a == b


@settings(max_examples=150, deadline=None)
@given(PLAIN, PLAIN)
def test_distinct_inputs_have_distinct_encodings(a: Any, b: Any) -> None:
    """Two values share their canonical bytes if and only if they have the same types and contents."""
    assert (b"".join(canonical_parts(a)) == b"".join(canonical_parts(b))) is same(a, b)
    assert (digest(a) == digest(b)) is same(a, b)


@settings(max_examples=100, deadline=None)
@given(st.lists(PLAIN, max_size=4), st.lists(PLAIN, max_size=4))
def test_no_encoding_runs_into_the_next(a: list[Any], b: list[Any]) -> None:
    """The encoding is prefix-free: the joined parts of two different lists never agree by shifting a border."""
    joined = [b"".join(b"".join(canonical_parts(item)) for item in items) for items in (a, b)]
    assert (joined[0] == joined[1]) is same(a, b)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=6), st.randoms(use_true_random=False))
def test_equal_inputs_have_equal_keys(value: dict[str, Any], random: Any) -> None:
    """A copy built in another order has the same key."""
    items = list(value.items())
    random.shuffle(items)
    assert key_for("embed", value) == key_for("embed", dict(items))
