"""TLS of a client: whom it trusts, and what it shows.

Invariants: where TLS was asked for, no TCP connection is opened without it; a shard's certificate is always checked,
against `tls_server_name` (or the name that comes with the view) and else against the host that the view names; options
of TLS that would not be heeded are refused. A Unix socket is never wrapped: only its owner can open it.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from stratacache.node.errors import UsageError

if TYPE_CHECKING:
    from stratacache.client.options import ClientOptions


def tls_context(options: ClientOptions, ca: str | None = None) -> ssl.SSLContext:
    """The context for all shards; `ca` is the authority's file where the options name none.

    Raises UsageError for files that can't be used.
    """
    ca = options.tls_ca or ca
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if options.tls_certificate is not None:
            context.load_cert_chain(options.tls_certificate, options.tls_key)
    except OSError as error:
        files = f"tls_ca={ca}, tls_certificate={options.tls_certificate}"
        raise UsageError(f"the TLS files can't be used ({files}): {error}") from error
    return context


def refuse_unheeded(options: ClientOptions, where: str) -> None:
    """Raise UsageError when there are options of TLS, which are of no use with what `where` names."""
    for name in ("tls_ca", "tls_certificate", "tls_key", "tls_server_name"):
        if getattr(options, name) is not None:
            raise UsageError(f"{name} is of no use with {where}")
