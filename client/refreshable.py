"""What a value needs to be computed again without its caller: the inputs kept with it, and who computes.

`@cached(refreshable=True)` puts a recipe into each entry's metadata: the name of the loader (the function itself) and
the call's arguments in the client's own codec. Shards and coordinators read the head of it and never the inputs; those
are decoded where the loader runs, in a Ray task, by the same code that encoded them. No pickle is involved in data.

Invariants: inputs above INPUT_BYTES_MAX, or of types that the codecs don't carry, make an entry that is not refreshable
and is counted so; a process announces each loader once for each cluster; where there is no Ray, nothing is announced.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from stratacache.client.base import Ttl
from stratacache.client.buffers import payload_bytes
from stratacache.client.codec import decode, encode
from stratacache.node.errors import EncodingError, LimitError
from stratacache.node.recipes import inputs_of, pack_recipe

INPUT_BYTES_MAX: Final = 64 << 10
LOADER_BYTES_MAX: Final = 200

log = logging.getLogger("stratacache.client")


def make_recipe(loader: str, ttl: Ttl, inputs: Any) -> bytes:
    """The metadata of an entry that can be refreshed.

    Raises LimitError for inputs above 64 KiB, and EncodingError for those that the codecs don't carry.
    """
    codec, payload = encode(inputs)
    packed = bytes([codec]) + payload_bytes(payload)
    if len(packed) > INPUT_BYTES_MAX:
        raise LimitError(
            f"the inputs have {len(packed)} bytes, the limit of what is kept to refresh a value is {INPUT_BYTES_MAX}: "
            "pass a reference to large inputs, or leave refreshable out"
        )
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    return pack_recipe(loader_name(loader), 0 if seconds is None else max(1, int(seconds)), packed)


def try_recipe(loader: str, ttl: Ttl, inputs: Any) -> bytes | None:
    """As `make_recipe`; None where it can't be."""
    try:
        return make_recipe(loader, ttl, inputs)
    except (LimitError, EncodingError):
        return None


def read_inputs(recipe: bytes) -> Any:
    """The inputs of a recipe, decoded: for the process that runs the loader, and no other."""
    packed = inputs_of(recipe)
    return decode(packed[0], packed[1:])


def loader_name(name: str) -> str:
    """A loader's name as it stands in recipes: cut in the middle where it is too long for one byte of length."""
    raw = name.encode()
    if len(raw) <= LOADER_BYTES_MAX:
        return name
    half = LOADER_BYTES_MAX // 2 - 2
    return f"{raw[:half].decode('utf-8', 'ignore')}..{raw[-half:].decode('utf-8', 'ignore')}"


class Announcer:
    """Tells the cluster of loaders, once for each process and cluster."""

    def __init__(self, in_ray: Callable[[], bool], tell: Callable[[str, Any, Mapping[str, Any], str], None]) -> None:
        self._in_ray = in_ray
        self._tell = tell
        self._told: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def announce(self, name: str, loader: Any, options: Mapping[str, Any], cluster: str) -> None:
        """Tell the coordinator how to compute what this loader computes; a failure is logged and tried no more."""
        if (cluster, name) in self._told or not self._in_ray():
            return
        with self._lock:
            if (cluster, name) in self._told:
                return
            self._told.add((cluster, name))
        try:
            self._tell(name, loader, options, cluster)
        except Exception as error:  # noqa: BLE001 - a cache that can't refresh ahead is still a cache
            log.warning("%s can't be refreshed ahead: %s", name, error)


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    return bool(ray is not None and hasattr(ray, "is_initialized") and ray.is_initialized())


def _tell(name: str, loader: Any, options: Mapping[str, Any], cluster: str) -> None:
    # By name: the client works without the cluster package's dependencies.
    importlib.import_module("stratacache.cluster.loaders").announce(name, loader, options, cluster)


announcer: Final = Announcer(_in_ray, _tell)
