"""How a node listens and what it allows a client: one frozen dataclass, checked once.

Invariant: a server that would let strangers in does not start (`ServerConfig.validate`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from stratacache.node.errors import UsageError
from stratacache.node.resp.parser import ParserLimits

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Where to listen, whom to let in, how much one client may use.

    `port` 0 takes a free port, None does not listen on TCP. `unix_path` is a socket with mode 0600. Without `token`
    only loopback addresses are listened on, unless `insecure` says otherwise. `read_token` lets in clients that may
    only read.
    """

    host: str = "127.0.0.1"
    port: int | None = 0
    unix_path: Path | None = None
    token: str | None = None
    read_token: str | None = None
    insecure: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # with it, a client must show a certificate that this authority signed
    tls_ca: Path | None = None  # who signed the other shards' certificates; None: an authority that the system trusts
    tls_server_name: str | None = None  # name in the shards' certificates, when it is not the address they listen on
    connections_max: int = 10_000
    value_bytes_max: int = 64 * MIB
    query_bytes_max: int = 256 * MIB  # one command with all its arguments
    output_bytes_max: int = 256 * MIB  # replies that a client has not read: past it the client is cut off
    output_soft_bytes_max: int = 32 * MIB  # ... or when it stays over this for `output_soft_s`
    output_soft_s: float = 30.0
    transaction_commands_max: int = 100_000  # queued between MULTI and EXEC
    idle_s: float = 0.0  # 0: an idle client is never closed
    tracked_keys_max: int = 1_000_000

    @property
    def parser_limits(self) -> ParserLimits:
        """The limits of one request, as the parser wants them."""
        return ParserLimits(bulk_bytes_max=self.value_bytes_max, command_bytes_max=self.query_bytes_max)

    def validate(self) -> None:
        """Raise UsageError, with the way out, for a configuration that can't work or would let strangers in."""
        if self.port is None and self.unix_path is None:
            raise UsageError("the server has nowhere to listen: give a port, a unix_path or both")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port} is not between 0 and 65535")
        if self.port is not None and not self.token and not self.insecure and not is_loopback(self.host):
            raise UsageError(
                f"refusing to listen on {self.host} without a token: set one, listen on 127.0.0.1, or say insecure=True"
            )
        if self.read_token and not self.token:
            raise UsageError("read_token needs a token beside it: without one every client may write")
        if self.read_token and self.read_token == self.token:
            raise UsageError("read_token and token are the same")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UsageError("TLS needs both tls_certificate and tls_key")
        for name in ("tls_client_ca", "tls_ca", "tls_server_name"):
            if getattr(self, name) is not None and self.tls_certificate is None:
                raise UsageError(f"{name} needs tls_certificate and tls_key")
        if self.query_bytes_max < self.value_bytes_max:
            raise UsageError("query_bytes_max is below value_bytes_max: no client could send the largest value")
        for name in ("connections_max", "value_bytes_max", "output_bytes_max", "transaction_commands_max"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
