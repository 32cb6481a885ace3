"""A store on whatever fsspec reaches: object stores, HDFS, an archive, memory.

fsspec is imported when a store is made, not before. Values lie as in `DirectoryStore`, one object for each key.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from stratacache.client.strategies.store import file_name, from_file, to_file
from stratacache.node.errors import UsageError


class FsspecStore:
    """Values under an fsspec URL such as `s3://bucket/prefix`; `options` go to the file system.

    An object appears whole or not at all where the file system does so (object stores do).
    """

    def __init__(self, url: str, **options: Any) -> None:
        try:
            fsspec = importlib.import_module("fsspec")
        except ImportError:
            raise UsageError("FsspecStore needs fsspec: pip install fsspec (and the package of the scheme)") from None
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, **options)
        except (ValueError, ImportError) as error:
            raise UsageError(f"fsspec can't open {url!r}: {error}") from error
        self._files.makedirs(self._root, exist_ok=True)

    def load_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have an object. Raises CorruptionError, OSError."""
        places = {self._place(key): key for key in keys}
        if not places:
            return {}
        contents = self._files.cat(list(places), on_error="return")
        found = {}
        for place, content in contents.items():
            key = places[place]
            if isinstance(content, FileNotFoundError):
                continue
            if isinstance(content, Exception):
                raise content
            found[key] = from_file(key, content)
        return found

    def store_many(self, items: Mapping[str, Any]) -> None:
        """Write every item. Raises EncodingError before anything is written, OSError."""
        self._files.pipe({self._place(key): to_file(key, value) for key, value in items.items()})

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove the objects of these keys."""
        for key in keys:
            try:
                self._files.rm_file(self._place(key))
            except FileNotFoundError:
                continue

    def _place(self, key: str) -> str:
        return f"{self._root}/{file_name(key)}"
