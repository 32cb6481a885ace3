"""How a client behaves: one frozen dataclass, checked once, picklable, the key of the process-wide sharing.

Invariants: two clients of a process with equal options share one set of connections and one near cache; the secrets in
it never show in a repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from os import PathLike
from types import NoneType

from stratacache.node.errors import UsageError

MIB = 1024 * 1024
SIGNING_KEY_BYTES_MIN = 16
SECONDS_MAX = 7 * 86400.0
_FILES = ("tls_ca", "tls_certificate", "tls_key")
_KINDS: dict[str, tuple[type, ...]] = {
    "str | None": (str, NoneType),
    "bytes | None": (bytes, NoneType),
    "float": (Real,),
    "int": (Integral,),
    "int | None": (Integral, NoneType),
    "bool": (bool,),
}


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Everything that `connect` takes.

    `address`: `strata://host:port[,host:port]`, `stratas://...` (TLS), `unix:PATH`, `local:DIR`, or None inside Ray.
    `cluster`: which cluster to look up inside Ray when there are several. `deadline_s`: when one call gives up, waiting
    for a fill aside; sending and receiving more than a megabyte gets more time, one second per 16 MiB.
    `near_bytes_max`: budget of the near cache, 0 for none; with it a read may lag behind an acknowledged
    invalidation by another process by up to `push_deadline_s`. `near_frozen`: hand out near-cached lists and dicts
    themselves instead of copies, for callers that never change them. `ttl_jitter`: share by which a put's TTL is
    randomly stretched or cut, so that entries of one batch do not expire together. `lease_hold_s`: how long a
    computing process may take before another one gets its turn; `lease_wait_s`: how long to wait for that process.
    `tls_ca`: file of the authority that signed the shards' certificates (None: those that the system trusts);
    `tls_certificate` and `tls_key`: what this client shows; `tls_server_name`: the name in the shards' certificates,
    when they do not carry their addresses. Inside Ray authority and name come with the view.
    """

    address: str | None = None
    cluster: str | None = None
    token: str | None = field(default=None, repr=False)
    deadline_s: float = 2.0
    connect_deadline_s: float = 1.0
    connections_max: int = 64  # for each shard
    use_unix: bool = True
    near_bytes_max: int = 0
    near_age_max_s: float = 60.0
    near_frozen: bool = False
    push_deadline_s: float = 1.0
    ttl_jitter: float = 0.05
    seed: int | None = None
    lease_hold_s: float = 30.0
    lease_wait_s: float = 60.0
    invalidation_retry_s: float = 60.0
    l1_bytes_max: int = 256 * MIB  # the levels of local:
    l2_bytes_max: int = 64 * MIB
    l3_bytes_max: int = 4096 * MIB
    tls_ca: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = field(default=None, repr=False)
    tls_server_name: str | None = None
    signing_key: bytes | None = field(default=None, repr=False)

    def validate(self) -> None:
        """Raise UsageError for options that can't work."""
        self._check_kinds()
        for name in ("deadline_s", "connect_deadline_s", "near_age_max_s", "push_deadline_s", "lease_hold_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("near_bytes_max", "lease_wait_s", "invalidation_retry_s"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be below 0")
        for name in ("deadline_s", "connect_deadline_s", "push_deadline_s", "lease_hold_s", "invalidation_retry_s"):
            if getattr(self, name) > SECONDS_MAX:  # also what the kernel's timeouts could not carry
                raise UsageError(f"{name} is {getattr(self, name)}; the limit is {SECONDS_MAX:.0f}, which is a week")
        if not 0 <= self.ttl_jitter < 1:
            raise UsageError(f"ttl_jitter is {self.ttl_jitter}; it is a share, at least 0 and below 1")
        if self.connections_max < 1:
            raise UsageError(f"connections_max is {self.connections_max}; it must be at least 1")
        if self.signing_key is not None and len(self.signing_key) < SIGNING_KEY_BYTES_MIN:
            short = len(self.signing_key)
            raise UsageError(f"signing_key has {short} bytes; give {SIGNING_KEY_BYTES_MIN} random bytes or more")
        if self.token == "":
            raise UsageError("token is empty; leave it out for a cache without one")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UsageError("a client certificate needs both tls_certificate and tls_key")

    def _check_kinds(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            kinds = _KINDS[str(each.type)]
            if each.name in _FILES and isinstance(value, PathLike):
                continue
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                shown = f"of type {type(value).__name__}"  # a secret of the wrong kind is a secret all the same
                raise UsageError(f"{each.name} is {shown}; it takes {str(each.type).replace(' | ', ' or ')}")
