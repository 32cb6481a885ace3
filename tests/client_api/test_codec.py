"""Codecs: what comes back is what went in, arrays without a copy, nothing runs that was not signed."""

from __future__ import annotations

import contextlib
import datetime as dt
import pickle
import struct
import subprocess
import sys
import uuid
from collections import OrderedDict
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratacache.client import codec
from stratacache.client.codec import CachedFailure, decode, encode, payload_bytes, payload_size
from stratacache.node.errors import AccessError, CorruptionError, EncodingError, UsageError
from stratacache.node.types import AIOperation
from tests.client_api.samples import Point, Prompt

KEY = b"sixteen bytes or more"


def round_trip(value: Any, name: str = "auto") -> Any:
    codec_id, payload = encode(value, name, signing_key=KEY)
    joined = payload_bytes(payload)
    assert len(joined) == payload_size(payload)
    return decode(codec_id, joined, signing_key=KEY)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dt.datetime | dt.time):
        return (a, a.utcoffset(), a.fold) == (b, b.utcoffset(), b.fold)
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, Decimal):
        return str(a) == str(b)
    return bool(a == b)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.just(ZoneInfo("Europe/Berlin")))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.tuples(st.dates()), inner, max_size=4)
        | st.sets(st.integers() | st.text(max_size=4))
        | st.frozensets(st.integers() | st.text(max_size=4))
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_values_come_back_as_they_were(value: Any) -> None:
    """Every supported type, nested at will, keeps its type and content."""
    assert same(round_trip(value), value)
    assert same(round_trip(value, "msgpack"), value)


@pytest.mark.parametrize(
    ("value", "codec_id", "payload"),
    [
        (b"\x00\xff", codec.RAW, b"\x00\xff"),
        (b"", codec.RAW, b""),
        ("grün", codec.TEXT, "grün".encode()),
        ("", codec.TEXT, b""),
        (None, codec.MSGPACK, b"\xc0"),
        ({"a": [1, True, 2.5]}, codec.MSGPACK, msgpack.packb({"a": [1, True, 2.5]})),
    ],
)
def test_plain_values_are_readable_by_others(value: Any, codec_id: int, payload: bytes) -> None:
    """Text and bytes are themselves in redis-cli; plain data is plain msgpack for any language."""
    assert encode(value) == (codec_id, payload)
    assert same(decode(codec_id, payload), value)


DTYPES = ["|V0", "<f4", "<f8", ">f8", "<i2", "|u1", "|b1", "<c16", "<M8[ns]", "<m8[s]", "<U3", "|S2", "<f2"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (40, 50)])
def test_arrays(dtype: str, shape: tuple[int, ...]) -> None:
    """Arrays of every fixed-width dtype and shape, alone and inside containers."""
    array = np.zeros(shape, dtype=dtype)
    if array.dtype.kind in "fiuc":
        array += np.arange(array.size, dtype=dtype).reshape(shape)
    for value in (array, [array, 1], {"deep": ({"array": array},)}):
        assert same(round_trip(value), value)


def test_structured_dtypes_and_views() -> None:
    """Field names, nested fields and padding survive; a strided or transposed view arrives as its content."""
    fields = np.zeros(5, dtype=[("a" * 200, "<i4"), ("b", "<f8", (2, 3)), ("c", [("d", "|S3")])])
    fields["b"] = 7
    assert same(round_trip(fields), fields)
    assert same(round_trip([fields]), [fields])
    aligned = np.zeros(4, dtype=np.dtype([("a", "u1"), ("b", "<f8")], align=True))
    assert round_trip(aligned).tolist() == aligned.tolist()
    array = np.arange(10_000).reshape(100, 100)
    assert np.array_equal(round_trip(array.T), array.T)
    assert np.array_equal(round_trip(array[::3, ::-2]), array[::3, ::-2])


def test_arrays_are_decoded_without_a_copy_and_read_only() -> None:
    """The decoded array lies inside the received payload, and can't be written to."""
    array = np.arange(4096, dtype="<f4")
    for value, pick in ((array, lambda got: got), ({"x": [array]}, lambda got: got["x"][0])):
        codec_id, payload = encode(value)
        received = payload_bytes(payload)
        got = pick(decode(codec_id, received))
        start = np.frombuffer(received, "u1").ctypes.data
        assert start <= got.ctypes.data < start + len(received)
        assert (got.ctypes.data - start) % 16 == 0
        with pytest.raises(ValueError, match="read-only"):
            got[0] = 1
        writable = decode(codec_id, bytearray(received))
        assert not pick(writable).flags.writeable


def test_large_buffers_stay_out_of_band() -> None:
    """The payload of a large array refers to the array's own memory: it reaches the socket without a copy."""
    array = np.zeros(1 << 20, dtype="u1")
    for value in (array, {"x": array}):
        _, payload = encode(value)
        assert not isinstance(payload, bytes)
        assert any(len(part) == array.nbytes and np.shares_memory(np.frombuffer(part, "u1"), array) for part in payload)


def test_numpy_scalars_and_object_arrays() -> None:
    """A float32 stays a float32; an array of strings and None (as Ray Data makes them) works."""
    for scalar in (np.float32(1.5), np.int8(-3), np.bool_(True), np.datetime64("2026-01-01", "D"), np.str_("a")):
        got = round_trip([scalar])[0]
        assert type(got) is type(scalar)
        assert got == scalar
    objects = np.array([["a", None], [3, [1]]], dtype=object)
    got = round_trip(objects)
    assert got.dtype == object
    assert got.tolist() == objects.tolist()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, object()]}, "value['a'][1]: a builtins.object"),
        ([Prompt("x")], "value[0]: a tests.client_api.samples.Prompt"),
        (({"k": Point(1, 2)},), "value[0]['k']: a tests.client_api.samples.Point"),
        ({"o": OrderedDict(a=1)}, "value['o']: a collections.OrderedDict"),
        ([AIOperation.EMBED], "value[0]: a stratacache.node.types.AIOperation"),
        ({"t": dt.datetime(2026, 1, 1, tzinfo=type("Odd", (dt.tzinfo,), {})())}, "value['t']: a time zone of type"),
        ([np.ma.MaskedArray([1], mask=[1])], "value[0]: a numpy.ma"),
        (np.array([{"x": object()}], dtype=object), "value: a builtins.object"),
    ],
)
def test_what_would_not_come_back_is_refused_with_its_path(value: Any, path: str) -> None:
    """A subclass or class that msgpack would flatten is an error, never a silent change of type."""
    with pytest.raises(EncodingError) as caught:
        encode(value)
    assert str(caught.value).startswith(path)


def test_a_value_that_contains_itself_is_refused() -> None:
    """Direct and through a tuple, which nests by extension."""
    direct: list[Any] = []
    direct.append(direct)
    through: list[Any] = []
    through.append((through,))
    for value in (direct, through):
        with pytest.raises(EncodingError, match="contains itself"):
            encode(value)


def test_pickle_is_signed_and_never_loaded_without_the_key() -> None:
    """A changed byte, another key and no key are each refused before anything is unpickled."""
    value = {"prompt": Prompt("x"), "array": np.arange(3000.0)}
    codec_id, payload = encode(value, "pickle", signing_key=KEY)
    joined = payload_bytes(payload)
    assert codec_id == codec.PICKLE
    got = decode(codec_id, joined, signing_key=KEY)
    assert got["prompt"] == value["prompt"]
    assert not got["array"].flags.writeable
    with pytest.raises(AccessError):
        decode(codec_id, joined)
    with pytest.raises(CorruptionError):
        decode(codec_id, joined, signing_key=b"another key of enough bytes")
    for at in (0, 31, 32, 40, 60, len(joined) - 1):
        changed = bytearray(joined)
        changed[at] ^= 1
        with pytest.raises(CorruptionError, match="signature"):
            decode(codec_id, bytes(changed), signing_key=KEY)
    forged = pickle.dumps(value)
    with pytest.raises(CorruptionError):
        decode(codec_id, forged, signing_key=KEY)
    for key in (None, b"short"):
        with pytest.raises(UsageError, match="signing_key"):
            encode(value, "pickle", signing_key=key)


def test_auto_never_pickles() -> None:
    """Pickle is chosen by its name only, even where a key is at hand."""
    with pytest.raises(EncodingError, match="pickle"):
        encode(Prompt("x"), signing_key=KEY)


@pytest.mark.parametrize(
    ("codec_id", "payload"),
    [
        (99, b"x"),
        (-1, b"x"),
        (codec.TEXT, b"\xff"),
        (codec.MSGPACK, b""),
        (codec.MSGPACK, b"\x92\x01"),
        (codec.MSGPACK, b"\x01\x02"),
        (codec.MSGPACK, b"\xc1B\x00\x00\x01\x00\x00\x00\xc0"),
        (codec.MSGPACK, b"\xc1A"),
        (codec.MSGPACK, msgpack.packb(msgpack.ExtType(99, b""))),
        (codec.MSGPACK, msgpack.packb(msgpack.ExtType(codec.codec_msgpack.DATETIME, b"\x90"))),
        (codec.MSGPACK, msgpack.packb(msgpack.ExtType(codec.codec_msgpack.ATTACHED, b"\x90"))),
        (codec.NDARRAY, b""),
        (codec.NDARRAY, b"\x93\x10\xa3<f4\x91\xcd\xff\xff" + bytes(32)),
        (codec.NDARRAY, b"\x93\x10\xa2|O\x91\x01" + bytes(32)),
        (codec.NDARRAY, b"\x93\x10\xa3<f4\x91\xff" + bytes(32)),
        (codec.FAILURE, b"\x01"),
        (codec.FAILURE, b"\x92\x01\x02"),
    ],
)
def test_a_broken_payload_is_corruption(codec_id: int, payload: bytes) -> None:
    """Whatever stands in a payload, decoding it raises one error that a client counts as a miss."""
    with pytest.raises(CorruptionError):
        decode(codec_id, payload)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([1, 2, 3, 5]), st.sampled_from([b"", b"\xc1A\x00\x00", b"\x93\x10"]))
def test_random_payloads_only_ever_raise_corruption(data: bytes, codec_id: int, begin: bytes) -> None:
    """Fuzz: no other exception, no crash, no giant allocation."""
    with contextlib.suppress(CorruptionError):
        decode(codec_id, begin + data)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 30, 100, 5000])
def test_a_truncated_payload_is_corruption(cut: int) -> None:
    """A payload that lost its end never decodes to a shorter value."""
    _, payload = encode({"x": np.arange(5000.0), "y": "z"})
    with pytest.raises(CorruptionError):
        decode(codec.MSGPACK, payload_bytes(payload)[:cut])


class ServerError(LookupError):
    """Declared by nobody, derived from a declared class."""


class OddError(LookupError):
    """Has a constructor of its own."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(f"{code} {text}")


@pytest.mark.parametrize("error", [KeyError("x"), LookupError("a", 2), ServerError(), OddError(4, text="t")])
def test_cached_exceptions(error: LookupError) -> None:
    """A declared exception, or a subclass of one, is raised again with its class; others are not."""
    codec_id, payload = encode(CachedFailure.of(error))
    assert codec_id == codec.FAILURE
    failure = decode(codec_id, payload_bytes(payload))
    revived = failure.revive((ValueError, LookupError))
    assert type(revived) is type(error)
    assert str(revived) == str(error)
    assert failure.revive((ValueError,)) is None
    assert failure.message == str(error)


def test_an_exception_with_arguments_of_its_own_kind() -> None:
    """Arguments that no codec carries give way to the message."""
    failure = CachedFailure.of(KeyError(object))
    assert failure.args == (failure.message,)


def test_arrow_tables() -> None:
    """Tables and batches come back equal, as views of the payload."""
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"id": list(range(5000)), "text": ["x"] * 4999 + [None]})
    batch = table.to_batches()[0]
    assert round_trip(table).equals(table)
    got = round_trip({"table": [table], "batch": batch})
    assert got["table"][0].equals(table)
    assert got["batch"].equals(batch)
    small = pa.table({"id": [1]})
    assert round_trip([small])[0].equals(small)


def test_torch_tensors() -> None:
    """Dense tensors come back with their dtype, bfloat16 included."""
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        tensor = torch.arange(3000).reshape(30, 100).to(dtype)
        for value in (tensor, tensor.T, tensor[:0], tensor[0, 0]):
            got = round_trip([value])[0]
            assert got.dtype == dtype
            assert torch.equal(got, value)


def test_importing_the_codec_imports_no_array_library() -> None:
    """A program that caches text must not pay for NumPy; the libraries are met when a value of theirs is."""
    code = (
        "import sys; from stratacache.client import codec, keys; codec.encode({'a': (1,)}); keys.key_for('x', [1]); "
        "print([name for name in ('numpy', 'torch', 'pyarrow', 'ray', 'pickle', 'pydantic') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.strip() == "[]"


def test_uuid_and_decimal_bytes_are_pinned() -> None:
    """The stored form of extensions is part of the format: another version must read it."""
    _, payload = encode([uuid.UUID(int=1), Decimal("1.50"), (1,), {2}, dt.date(2026, 1, 2), 1 << 64, 1j])
    assert payload_bytes(payload).hex() == (
        "97d80a00000000000000000000000000000001d609312e3530d5019101d5029102c70a05323032362d30312d3032"
        "c7090b010000000000000000d80800000000000000003ff0000000000000"
    )
