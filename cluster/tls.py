"""TLS of a cluster: what its shards show, and what those that connect to them believe.

Shards are reached by addresses that change, so nobody checks an address: a certificate is believed when the cluster's
authority signed it and it holds the cluster's one name (`tls_name`).

Invariants: what connects always checks the certificate; the private key is read by the shard's own process and never
travels.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, NamedTuple

from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.links import Credentials
from stratacache.node.errors import UsageError
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.tls import calling


class Trust(NamedTuple):
    """What a client of the cluster needs: a file with the authority's certificate ("": the system's), and the name."""

    ca: str
    name: str


def trust_of(config: ClusterConfig) -> Trust | None:
    """How to believe the shards of this cluster; None when they speak without TLS."""
    return Trust(config.tls_ca, config.tls_name) if config.tls_certificate else None


def client_context(trust: Trust) -> ssl.SSLContext:
    """What connects with this checks the certificate, by the name that is given with each connection."""
    context = ssl.create_default_context(cafile=trust.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def credentials_of(config: ClusterConfig) -> Credentials:
    """What a shard of this cluster connects to another one with."""
    return Credentials(token=config.token, tls=calling(ServerConfig(**server_files(config))), tls_name=config.tls_name)


def server_files(config: ClusterConfig) -> dict[str, Any]:
    """The fields of a shard's ServerConfig that are about TLS."""
    if not config.tls_certificate:
        return {}
    return {
        "tls_certificate": Path(config.tls_certificate),
        "tls_key": Path(config.tls_key),
        "tls_ca": Path(config.tls_ca) if config.tls_ca else None,
        "tls_server_name": config.tls_name,
    }


def check_files(config: ClusterConfig) -> None:
    """Read the files as a shard will; raises UsageError that names the one that is wrong."""
    if not config.tls_certificate:
        return
    for name in ("tls_certificate", "tls_key", "tls_ca"):
        path = getattr(config, name)
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"{name} {path} can't be read: {error.strerror}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_certificate, config.tls_key)
        if config.tls_ca:
            ssl.create_default_context(cafile=config.tls_ca)
    except ssl.SSLError as error:
        raise UsageError(
            f"tls_certificate {config.tls_certificate}, tls_key and tls_ca do not go together: {error.reason}"
        ) from error


class Renewal:
    """Notices that a certificate was replaced, so that a shard shows the new one without a restart."""

    def __init__(self, certificate: str, key: str) -> None:
        self._files = (certificate, key)
        self._seen = self._changed_ns()

    def _changed_ns(self) -> tuple[int, ...]:
        return tuple(Path(path).stat().st_mtime_ns for path in self._files)

    def apply(self, context: ssl.SSLContext) -> bool:
        """Load the files into the server's context when they have changed; whether they had. Blocks for a moment."""
        changed = self._changed_ns()
        if changed == self._seen:
            return False
        context.load_cert_chain(*self._files)
        self._seen = changed
        return True
