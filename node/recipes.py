"""Recipes: what it takes to compute a value again, kept a while longer than the value itself.

A client may put a recipe into an entry's metadata. To the node it is opaque beyond its head, which says how long a
value lives and which loader computes it; the inputs behind it are the client's codec bytes and are never decoded here.
A key that is read once a day with a TTL of hours has no entry left when it is time to refresh it: so the recipes of
entries that expired stay, least recently expired out first.

Head: `SCR1`, TTL in seconds (u32, big endian; 0 for none), length of the loader's name (u8), its UTF-8 name.

Invariants: at most `bytes_max` bytes of recipes are kept beside those in entries; an invalidation takes the recipes
that it covers along with the entries; a put of the key replaces its recipe.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .entry import Entry

MAGIC: Final = b"SCR1"
_HEAD: Final = struct.Struct(">4sIB")
RECIPES_BYTES_MAX: Final = 16 << 20
RECIPE_BYTES: Final = 320
"""Charged for each recipe beside its key and itself."""


@dataclass(frozen=True, slots=True)
class Head:
    """The part of a recipe that nodes and coordinators read. `ttl_s` is 0 for values that never expire."""

    loader: str
    ttl_s: int


def pack_recipe(loader: str, ttl_s: int, inputs: bytes) -> bytes:
    """A recipe as it stands in the metadata."""
    name = loader.encode()
    return _HEAD.pack(MAGIC, min(ttl_s, 0xFFFFFFFF), len(name)) + name + inputs


def head_of(metadata: bytes) -> Head | None:
    """The head of a recipe; None for metadata of another kind."""
    if not metadata.startswith(MAGIC) or len(metadata) < _HEAD.size:
        return None
    _, ttl_s, length = _HEAD.unpack_from(metadata)
    return Head(metadata[_HEAD.size : _HEAD.size + length].decode("utf-8", "replace"), ttl_s)


def inputs_of(metadata: bytes) -> bytes:
    """The inputs behind the head."""
    return metadata[_HEAD.size + metadata[_HEAD.size - 1] :]


@dataclass(frozen=True, slots=True)
class Kept:
    """The recipe of an entry that expired, with what invalidations go by."""

    recipe: bytes
    cost_s: float
    size: int
    namespace: bytes
    tags: tuple[bytes, ...]


class Recipes:
    """Recipes of expired entries by canonical key."""

    def __init__(self, bytes_max: int = RECIPES_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.bytes_used = 0
        self.kept: OrderedDict[bytes, Kept] = OrderedDict()

    def expired(self, entry: Entry) -> None:
        """An entry has expired: keep its recipe, if it has one."""
        if not entry.metadata.startswith(MAGIC):
            return
        self.forget(entry.key)
        group = entry.page.group
        self.kept[entry.key] = Kept(entry.metadata, entry.cost_s, entry.size, group.namespace.name, group.tags)
        self.bytes_used += RECIPE_BYTES + len(entry.key) + len(entry.metadata)
        while self.bytes_used > self.bytes_max:
            self.forget(next(iter(self.kept)))

    def of(self, key: bytes, entry: Entry | None) -> bytes:
        """The recipe in a key's entry, or the one that outlived it; empty where there is none."""
        kept = self.kept.get(key)
        recipe = entry.metadata if entry is not None else kept.recipe if kept is not None else b""
        return recipe if head_of(recipe) else b""

    def forget(self, key: bytes) -> None:
        """The key was put or invalidated."""
        kept = self.kept.pop(key, None)
        if kept is not None:
            self.bytes_used -= RECIPE_BYTES + len(key) + len(kept.recipe)

    def invalidate(self, kind: str, names: Sequence[bytes]) -> None:
        """Forget what an invalidation of `keys`, `tags`, `namespace` or everything covers."""
        if not self.kept:
            return
        if kind == "keys":
            for key in names:
                self.forget(key)
            return
        wanted = set(names)
        for key, kept in list(self.kept.items()):
            if (
                (kind == "tags" and not wanted.isdisjoint(kept.tags))
                or (kind == "namespace" and kept.namespace in wanted)
                or kind not in ("tags", "namespace")
            ):
                self.forget(key)
