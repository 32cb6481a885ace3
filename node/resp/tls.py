"""TLS of a node: the context it listens with, and the one it calls other nodes with.

Invariants: TLS 1.2 or newer on both sides; whom a node calls must show a certificate that its authority signed for the
host it was called by (or for `tls_server_name`); a Unix socket is never wrapped, since only its owner can open it.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from stratacache.node.errors import UsageError

if TYPE_CHECKING:
    from stratacache.node.resp.config import ServerConfig


def listening(config: ServerConfig) -> ssl.SSLContext | None:
    """The context for who connects to this node, None without a certificate.

    With `tls_client_ca` everybody must show a certificate which that authority signed. Raises UsageError for a
    certificate and a key that can't be read or do not belong together.
    """
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a stranger could keep a core busy with it
    _show(context, config)
    if config.tls_client_ca is not None:
        context.load_verify_locations(config.tls_client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def calling(config: ServerConfig) -> ssl.SSLContext | None:
    """The context for nodes that this node connects to: None when the nodes of its cluster do not speak TLS.

    It trusts `tls_ca` and shows this node's own certificate. `tls_server_name` is the name to ask for, if the
    certificates do not carry addresses.
    """
    if config.tls_certificate is None:
        return None
    context = ssl.create_default_context(cafile=config.tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _show(context, config)
    return context


def _show(context: ssl.SSLContext, config: ServerConfig) -> None:
    assert config.tls_certificate is not None
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except OSError as error:
        raise UsageError(
            f"can't use the certificate {config.tls_certificate} with {config.tls_key}: {error}"
        ) from error
