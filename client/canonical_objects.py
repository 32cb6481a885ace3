"""What an object holds, for `canonical.py`: its class, its named state, and whether that is all of it.

Invariants: memoised properties are no state, for they follow from the rest; an object of whose state a part is hidden
is never taken for all that is seen of it.
"""

from __future__ import annotations

import functools
from typing import Any, Final

_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement

type_name_of = "{0.__module__}.{0.__qualname__}".format


def state_of(value: Any) -> dict[str, Any]:
    """Every attribute that the instance holds, from `__dict__` and slots, without memoised properties."""
    cls = type(value)
    state = {
        name: item
        for name, item in getattr(value, "__dict__", {}).items()
        if not isinstance(getattr(cls, name, None), functools.cached_property)
    }
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            mangled = f"_{base.__name__.lstrip('_')}{name}" if name[:2] == "__" and name[-2:] != "__" else name
            if name not in {"__dict__", "__weakref__"} and hasattr(value, mangled):
                state[mangled] = getattr(value, mangled)
    return state


def pydantic_state_of(value: Any) -> dict[str, Any]:
    """Fields, extra fields and private attributes of a pydantic model."""
    state = dict(value.__dict__)
    state.update(getattr(value, "__pydantic_extra__", None) or {})
    state.update(getattr(value, "__pydantic_private__", None) or {})
    return state


def shows_its_state(cls: type, base: type) -> bool:
    """Whether everything that `cls` adds to `base` is visible in `__dict__` and slots.

    pandas.Timestamp is a datetime whose nanoseconds are hidden in C: written as a datetime, two of them would share a
    key. A class made in C, or one that pickles in its own way, is therefore not looked through.
    """
    added = cls.__mro__[: cls.__mro__.index(base)]
    return all(each.__flags__ & _HEAP_TYPE for each in added) and (
        base is object or (cls.__reduce__ is base.__reduce__ and cls.__reduce_ex__ is base.__reduce_ex__)
    )
