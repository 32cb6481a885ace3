"""TLS of a cluster: what its shards show, and what those that connect to them believe.

Shards are reached by addresses that change, so nobody checks an address: a certificate is believed when the cluster's
authority signed it and it holds the cluster's one name (`tls_name`).

Invariants: what connects always checks the certificate; the private key is read by the shard's own process and never
travels; what the files hold while they are replaced neither ends a shard nor takes from it what it showed before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final, NamedTuple

from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.links import Credentials
from stratacache.node.errors import UsageError
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.tls import calling

LOOK_EVERY_S: Final = 30.0

log = logging.getLogger(__name__)


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


def check_files(config: ClusterConfig, *, comes_back: bool = False) -> None:
    """Read the files as a shard will; raises UsageError that names the one that is wrong.

    That includes a certificate which nobody would believe: expired, of another name, or without what RFC 5280 asks for,
    on which Python insists from 3.13 on. A shard that only comes back serves all the same: by Unix sockets it is
    reached without.
    """
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
        shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        shown.load_cert_chain(config.tls_certificate, config.tls_key)
        believer = client_context(Trust(config.tls_ca, config.tls_name))
    except ssl.SSLError as error:
        raise UsageError(
            f"tls_certificate {config.tls_certificate}, tls_key and tls_ca do not go together: {error.reason}"
        ) from error
    doubt = _why_not_believed(shown, believer, config.tls_name)
    if doubt and not comes_back:
        raise UsageError(f"tls_certificate {config.tls_certificate} would be believed by nobody: {doubt}")
    if doubt:
        log.warning("%s is shown, and believed by nobody: %s", config.tls_certificate, doubt)


class Fresh(NamedTuple):
    """What the files held when they were read: certificate and key, which go together, and the authority's."""

    certificate: bytes
    key: bytes
    ca: bytes

    def show(self, listening: ssl.SSLContext, credentials: Credentials) -> None:
        """Show it from now on, and believe the authority beside those before. On the thread that accepts connections.

        Loaded from memory: a certificate that meets the key of another in the files would leave the context with none.
        """
        _load(listening, self.certificate, self.key)
        if self.ca and credentials.tls is not None:
            credentials.tls.load_verify_locations(cadata=self.ca.decode("ascii", "ignore"))


class Renewal:
    """Notices that the files were replaced, so that a shard shows the new certificate without a restart.

    Make it before the files are loaded, or what changes in between is not noticed.
    """

    def __init__(self, config: ClusterConfig) -> None:
        self._files = (config.tls_certificate, config.tls_key, config.tls_ca)
        self._trust = Trust(config.tls_ca, config.tls_name)
        self._seen = self._marks()

    def _marks(self) -> list[tuple[int, ...]]:
        """What differs when a file was replaced or written to; nothing for one that is not there."""
        marks: list[tuple[int, ...]] = []
        for path in self._files:
            try:
                status = Path(path).stat()
            except OSError:
                marks.append(())
            else:
                marks.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return marks

    def look(self, listening: ssl.SSLContext, credentials: Credentials) -> Fresh | None:
        """What the files hold when it is new and can be shown; blocks for a moment.

        Raises OSError, ValueError or UsageError for what can't be: files that are not there, half-written, or do not go
        together, and a certificate that nobody would believe while the one before is still believed.
        """
        marks = self._marks()
        if marks == self._seen:
            return None
        certificate, key, ca = (Path(path).read_bytes() if path else b"" for path in self._files)
        probe, name = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._trust.name
        _load(probe, certificate, key)
        problem = _why_not_believed(probe, client_context(self._trust), name)
        if problem and credentials.tls is not None and not _why_not_believed(listening, credentials.tls, name):
            raise UsageError(f"{self._files[0]}: {problem}")
        self._seen = marks
        return Fresh(certificate, key, ca)


async def keep_renewed(
    renewal: Renewal, listening: ssl.SSLContext, credentials: Credentials, every_s: float = LOOK_EVERY_S
) -> None:
    """Show each renewed certificate. Whatever the files hold, the one before is shown until they hold a better one."""
    told = ""
    while True:
        await asyncio.sleep(every_s)
        try:
            fresh = await asyncio.to_thread(renewal.look, listening, credentials)
            if fresh is not None:
                fresh.show(listening, credentials)
                told = ""
        except Exception as error:  # noqa: BLE001 - no reason to stop serving
            if told != (told := str(error)):
                log.warning("the renewed certificate can't be used, the one before is shown on: %s", error)


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load both from memory: OpenSSL takes files only, and those of the user may be replaced at any moment."""
    with _nameless(certificate) as first, _nameless(key) as second:
        context.load_cert_chain(f"/dev/fd/{first.fileno()}", f"/dev/fd/{second.fileno()}")


def _nameless(content: bytes) -> BinaryIO:
    """A file that nobody else can open; on Linux no disk ever holds it."""
    file = os.fdopen(os.memfd_create("tls"), "w+b") if sys.platform == "linux" else TemporaryFile()  # noqa: SIM115 - handed on
    file.write(content)
    file.seek(0)
    return file


def _why_not_believed(listening: ssl.SSLContext, believer: ssl.SSLContext, name: str) -> str:
    """Why a client would not believe what a context shows; empty when it would. A handshake in memory tells."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = believer.wrap_bio(to_client, to_server, server_hostname=name)
    server = listening.wrap_bio(to_server, to_client, server_side=True)
    try:
        while not all([_has_shaken_hands(client), _has_shaken_hands(server)]):
            if not (to_server.pending or to_client.pending):
                return "the handshake does not end"
    except ssl.SSLError as error:
        return str(getattr(error, "verify_message", "") or error.reason)
    return ""


def _has_shaken_hands(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
