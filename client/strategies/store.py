"""What a store behind the cache must offer, and one that keeps each value in a file of a directory.

Invariants: a value is found under exactly the key that it was stored under (names of files are digests, and the key
stands inside the file); a reader sees a whole value or none; nothing that is read is ever executed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgpack

from stratacache.client.codec import decode, encode, payload_bytes
from stratacache.node.errors import CorruptionError, UsageError

FORMAT: Final = 1


class BackingStore(Protocol):
    """Where values live for good. Called from several threads; errors are raised and reach the caller or the retry.

    Every method may be called again with the same arguments after a failure: storing and deleting are idempotent.
    """

    def load_many(self, keys: Iterable[str]) -> Mapping[str, Any]:
        """The values of those keys that the store has."""
        ...

    def store_many(self, items: Mapping[str, Any]) -> None:
        """Store every item; when this returns they survive a crash."""
        ...

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete what is there of these keys."""
        ...


def file_name(key: str) -> str:
    """A name for the key's file: a digest, so that no key can name a path."""
    return hashlib.blake2b(key.encode(), digest_size=20).hexdigest()


def to_file(key: str, value: Any) -> bytes:
    """The content of a key's file: format, key, codec and payload."""
    codec, payload = encode(value)
    packed: bytes = msgpack.packb([FORMAT, key, codec, payload_bytes(payload)])
    return packed


def from_file(key: str, content: bytes) -> Any:
    """The value in a key's file; raises CorruptionError when it is not what `to_file` wrote for this key."""
    try:
        form, found, codec, payload = msgpack.unpackb(content)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptionError(f"the stored value of {key!r} is damaged: {error}") from error
    if form != FORMAT or found != key:
        raise CorruptionError(f"the file of {key!r} holds format {form!r} and key {found!r:.80}")
    return decode(codec, payload)


class DirectoryStore:
    """One file for each value, under a directory that is made when it is absent (mode 0700).

    A value is written beside its place, synced and then moved there, so that a crash leaves the old or the new one.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(
                f"{self.directory} is not a directory: name one, or a place where one can be made"
            ) from None

    def load_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have a file. Raises CorruptionError for a damaged one, OSError."""
        found = {}
        for key in keys:
            try:
                content = self._place(key).read_bytes()
            except FileNotFoundError:
                continue
            found[key] = from_file(key, content)
        return found

    def store_many(self, items: Mapping[str, Any]) -> None:
        """Write every item. Raises EncodingError before anything is written, OSError."""
        contents = {key: to_file(key, value) for key, value in items.items()}
        directories = set()
        for key, content in contents.items():
            place = self._place(key)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            beside = place.with_suffix(f".{secrets.token_hex(4)}.part")
            try:
                with beside.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(place)
            finally:
                beside.unlink(missing_ok=True)
            directories.add(place.parent)
        for directory in directories:
            _sync_directory(directory)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove the files of these keys."""
        for key in keys:
            self._place(key).unlink(missing_ok=True)

    def _place(self, key: str) -> Path:
        name = file_name(key)
        return self.directory / name[:2] / name


def _sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
