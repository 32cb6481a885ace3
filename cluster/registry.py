"""What a cluster keeps in Ray's control service: terms, epochs, the shards that are wanted, loaders, why a coordinator
ended itself, and the names of its shard processes.

Invariant: a term and an epoch are claimed by creating a key that must not exist yet, so no two coordinators have the
same term, and there is one view for each epoch even while two coordinators exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from stratacache.cluster.config import RAY_NAMESPACE

EPOCHS_KEPT: Final = 100
_KV_NAMESPACE: Final = RAY_NAMESPACE.encode()


class Registry:
    """One life of one cluster in Ray's key-value store. Every method blocks: call it from a thread."""

    def __init__(self, cluster: str, uid: str) -> None:
        self._cluster = cluster
        self._prefix = f"{cluster}/{uid}"

    def claim(self) -> tuple[int, int]:
        """Take the next free term; returns it and the highest epoch that was remembered."""
        from ray.experimental.internal_kv import _internal_kv_put

        last_term, epoch = self._read()
        term = last_term + 1
        while _internal_kv_put(self._term_key(term), b"claimed", overwrite=False, namespace=_KV_NAMESPACE):
            term += 1
        self._write(term, epoch)
        return term, epoch

    def is_newest(self, term: int) -> bool:
        """Whether no coordinator has claimed a later term."""
        from ray.experimental.internal_kv import _internal_kv_get

        return _internal_kv_get(self._term_key(term + 1), namespace=_KV_NAMESPACE) is None

    def remember(self, term: int, epoch: int) -> bool:
        """Claim the epoch for this term; False when another has used it, and then it must not be. May be repeated."""
        from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

        key, owner = self._epoch_key(epoch), str(term).encode()
        taken = _internal_kv_put(key, owner, overwrite=False, namespace=_KV_NAMESPACE)
        if taken and _internal_kv_get(key, namespace=_KV_NAMESPACE) != owner:
            return False
        self._write(term, epoch)
        _internal_kv_del(self._epoch_key(epoch - EPOCHS_KEPT), namespace=_KV_NAMESPACE)
        return True

    def _write(self, term: int, epoch: int) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        blob = json.dumps({"term": term, "epoch": epoch}).encode()
        _internal_kv_put(f"{self._prefix}/last".encode(), blob, overwrite=True, namespace=_KV_NAMESPACE)

    def write_target(self, shards: Mapping[str, float]) -> None:
        """Write down which shards are wanted, with their weights."""
        from ray.experimental.internal_kv import _internal_kv_put

        blob = json.dumps(dict(shards)).encode()
        _internal_kv_put(f"{self._prefix}/target".encode(), blob, overwrite=True, namespace=_KV_NAMESPACE)

    def read_target(self) -> dict[str, float]:
        """Which shards are wanted; empty when nobody has changed that since the start."""
        from ray.experimental.internal_kv import _internal_kv_get

        blob = _internal_kv_get(f"{self._prefix}/target".encode(), namespace=_KV_NAMESPACE)
        return {} if blob is None else {str(shard): float(weight) for shard, weight in json.loads(blob).items()}

    def note_fall(self, word: str) -> None:
        """Leave a word on why a coordinator's process ended itself."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(f"{self._prefix}/fell".encode(), word.encode(), overwrite=True, namespace=_KV_NAMESPACE)

    def read_fall(self) -> str:
        """The last such word; empty when none ever did."""
        from ray.experimental.internal_kv import _internal_kv_get

        return (_internal_kv_get(f"{self._prefix}/fell".encode(), namespace=_KV_NAMESPACE) or b"").decode()

    def remember_loader(self, name: str, blob: bytes) -> None:
        """Keep a loader for the coordinator's next process."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._loader_key(name), blob, overwrite=True, namespace=_KV_NAMESPACE)

    def loaders(self) -> list[bytes]:
        """The loaders that were kept."""
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

        keys = _internal_kv_list(self._loader_key(""), namespace=_KV_NAMESPACE)
        found = (_internal_kv_get(key, namespace=_KV_NAMESPACE) for key in keys)
        return [blob for blob in found if blob is not None]

    def _loader_key(self, name: str) -> bytes:
        return f"{self._prefix}/loader/{name}".encode()

    def forget(self) -> None:
        """Remove everything that this life of the cluster has kept."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(f"{self._prefix}/", del_by_prefix=True, namespace=_KV_NAMESPACE)

    def shard_actors(self) -> list[tuple[str, int]]:
        """Shard and incarnation of every shard process of the cluster's name that Ray knows."""
        import ray

        found = []
        for actor in ray.util.list_named_actors(all_namespaces=True):
            cluster, _, rest = actor["name"].partition("/")
            shard, _, number = rest.partition("/")
            if actor["namespace"] == RAY_NAMESPACE and cluster == self._cluster and number.isdigit():
                found.append((shard, int(number)))
        return sorted(found)

    def _term_key(self, term: int) -> bytes:
        return f"{self._prefix}/term/{term}".encode()

    def _epoch_key(self, epoch: int) -> bytes:
        return f"{self._prefix}/epoch/{epoch}".encode()

    def _read(self) -> tuple[int, int]:
        """The last term and epoch. Of epochs the highest claim counts: an outpaced coordinator may write last."""
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

        blob = _internal_kv_get(f"{self._prefix}/last".encode(), namespace=_KV_NAMESPACE)
        if blob is None:
            return 0, 0
        fields = json.loads(blob)
        claims = _internal_kv_list(f"{self._prefix}/epoch/".encode(), namespace=_KV_NAMESPACE)
        claimed = (int(key.rpartition(b"/")[2]) for key in claims)
        return int(fields["term"]), max(int(fields["epoch"]), *claimed, 0)
