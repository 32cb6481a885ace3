"""Values whose keys are pinned in golden_keys.json; importable by name from a second process."""

from __future__ import annotations

import datetime as dt
import enum
import fractions
import re
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pydantic

from stratacache.client.keys import key_for


class Colour(enum.Enum):
    """An enum."""

    RED = 1
    GREEN = 2


class Level(enum.IntEnum):
    """An int that is an enum."""

    RED = 1


class Access(enum.Flag):
    """Flags."""

    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Prompt:
    """A frozen dataclass."""

    text: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Slotted:
    """A dataclass without a __dict__."""

    text: str


class Request(pydantic.BaseModel):
    """A pydantic model."""

    model: str
    temperature: float = 0.0


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int


class Text(str):
    """A subclass of a built-in."""

    __slots__ = ()


class Versioned:
    """A class that says itself what it is."""

    def __init__(self, version: str) -> None:
        self.version = version

    def __cache_key__(self) -> str:
        return self.version


def samples() -> dict[str, Any]:
    """Name -> value; every value differs from every other, and their keys must too."""
    return {
        "none": None,
        "true": True,
        "false": False,
        "one": 1,
        "one_float": 1.0,
        "one_complex": 1 + 0j,
        "one_text": "1",
        "one_bytes": b"1",
        "one_bytearray": bytearray(b"1"),
        "one_memoryview": memoryview(b"1"),
        "one_decimal": Decimal(1),
        "one_decimal_scaled": Decimal("1.0"),
        "one_fraction": fractions.Fraction(1),
        "one_numpy_int64": np.int64(1),
        "one_numpy_int32": np.int32(1),
        "one_numpy_float64": np.float64(1),
        "one_numpy_array": np.array(1),
        "one_numpy_text": np.str_("1"),
        "one_subclass": Text("1"),
        "one_enum": Colour.RED,
        "one_int_enum": Level.RED,
        "one_flag": Access.READ,
        "two_flags": Access.READ | Access.WRITE,
        "zero": 0,
        "minus_zero": -0.0,
        "nan": float("nan"),
        "infinity": float("inf"),
        "big": 10**40,
        "minus_big": -(10**40),
        "empty_text": "",
        "empty_bytes": b"",
        "surrogate": "\ud800",
        "umlaut": "\u00e4",
        "umlaut_combined": "a\u0308",
        "empty_list": [],
        "empty_tuple": (),
        "empty_dict": {},
        "empty_set": set(),
        "empty_frozenset": frozenset(),
        "list": [1, 2],
        "list_nested": [[1], 2],
        "list_nested_other": [[1, 2]],
        "tuple": (1, 2),
        "named_tuple": Point(1, 2),
        "set": {1, 2, "a"},
        "frozenset": frozenset({1, 2, "a"}),
        "dict": {"a": 1, "b": [2.5, None]},
        "dict_of_int": {1: "a", "1": "b"},
        "ordered": OrderedDict(a=1, b=2),
        "ordered_other": OrderedDict(b=2, a=1),
        "counter": Counter("aab"),
        "defaultdict": defaultdict(int, a=1),
        "defaultdict_other": defaultdict(list, a=1),
        "deque": deque([1, 2]),
        "deque_bounded": deque([1, 2], maxlen=2),
        "range": range(1, 9, 2),
        "slice": slice(1, None),
        "ellipsis": ...,
        "pattern": re.compile("a+", re.IGNORECASE),
        "type": int,
        "own_type": Prompt,
        "date": dt.date(2026, 2, 3),
        "datetime": dt.datetime(2026, 2, 3, 4, 5, 6, 7),  # noqa: DTZ001
        "datetime_utc": dt.datetime(2026, 2, 3, 4, 5, 6, 7, dt.UTC),
        "datetime_zone": dt.datetime(2026, 7, 3, 4, tzinfo=ZoneInfo("Europe/Berlin")),
        "datetime_other_zone": dt.datetime(2026, 7, 3, 4, tzinfo=ZoneInfo("Europe/Paris")),
        "time": dt.time(1, 2, 3),
        "timedelta": dt.timedelta(days=-1, microseconds=1),
        "uuid": uuid.UUID(int=7),
        "path": PurePosixPath("a/b"),
        "windows_path": PureWindowsPath("a/b"),
        "dataclass": Prompt("hello", {"top_p": 0.9}),
        "dataclass_slots": Slotted("hello"),
        "pydantic": Request(model="m"),
        "pydantic_other": Request(model="m", temperature=0.5),
        "asked": Versioned("3"),
        "array": np.arange(6, dtype="<f4"),
        "array_shaped": np.arange(6, dtype="<f4").reshape(2, 3),
        "array_other_shape": np.arange(6, dtype="<f4").reshape(3, 2),
        "array_double": np.arange(6, dtype="<f8"),
        "array_big_endian": np.arange(6, dtype=">f4"),
        "array_dates": np.array(["2026-01-01"], dtype="<M8[D]"),
        "array_empty": np.zeros((0, 3), dtype="<f4"),
        "array_empty_other": np.zeros((3, 0), dtype="<f4"),
        "array_text": np.array(["ab", "c"], dtype="<U2"),
        "array_objects": np.array(["ab", None], dtype=object),
        "array_fields": np.zeros(2, dtype=[("a", "<i4"), ("b", "<f4")]),
        "array_other_fields": np.zeros(2, dtype=[("b", "<i4"), ("a", "<f4")]),
        "array_masked": np.ma.MaskedArray(np.arange(3, dtype="<i8"), mask=[0, 1, 0]),
        "array_masked_other": np.ma.MaskedArray(np.arange(3, dtype="<i8"), mask=[1, 0, 0]),
        "array_large": np.arange(300_000, dtype="<i4"),
        "array_last_byte": np.concatenate([np.arange(299_999, dtype="<i4"), np.array([0], dtype="<i4")]),
        "dtype": np.dtype("<f4"),
        "nested": {"messages": [{"role": "user", "content": ("hi", {"x": {3, 1, 2}})}], "images": [np.eye(2)]},
    }


def keys() -> dict[str, str]:
    """Name -> key, as golden_keys.json holds them."""
    return {name: key_for("embed", value, {"model": "minilm"}) for name, value in samples().items()}
