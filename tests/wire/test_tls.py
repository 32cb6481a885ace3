"""TLS, with certificates on both sides, for every kind of client and between nodes."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stratacache.client import MISS, connect
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.errors import UsageError
from stratacache.node.resp import reception, server, tls
from stratacache.node.resp.config import ServerConfig
from tests.client.certificates import SIGNS_CERTIFICATES
from tests.wire.processes import running_node
from tests.wire.raw import Raw, request

pytestmark = pytest.mark.server


@dataclass(frozen=True)
class Guarded:
    """A node that asks for client certificates, and a certificate that it takes."""

    port: int
    ca: Path
    certificate: Path
    key: Path


def certificate(
    directory: Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[Path, Path, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]]:
    """Write a certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    issuer_key = issuer[1] if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if issuer is None:
        builder = builder.add_extension(SIGNS_CERTIFICATES, critical=True)
    made = builder.sign(issuer_key, hashes.SHA256())
    certificate_path, key_path = directory / f"{name}.crt", directory / f"{name}.key"
    certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path, (made, key)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One node for all tests here."""
    directory = tmp_path_factory.mktemp("tls")
    ca_path, _, ca = certificate(directory, "ca")
    cert, key, _ = certificate(directory, "localhost", ca)
    client_cert, client_key, _ = certificate(directory, "client", ca)
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(ca_path))
    with running_node(*options) as (_, port):
        yield Guarded(port, ca_path, client_cert, client_key)


def refused(port: int, context: ssl.SSLContext) -> bool:
    """Whether the node closes a TLS connection instead of answering."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as secure,
        ):
            secure.sendall(request("PING"))
            return secure.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def test_tls_with_client_certificates(guarded: Guarded) -> None:
    """TLS serves who trusts the certificate, refuses plain text, and asks for a client certificate when told to."""
    context = ssl.create_default_context(cafile=str(guarded.ca))
    context.load_cert_chain(guarded.certificate, guarded.key)
    with (
        socket.create_connection(("127.0.0.1", guarded.port), 10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as secure,
    ):
        secure.sendall(request("SET", "k", b"x" * 300_000) + request("STRLEN", "k"))
        received = b""
        while not received.endswith(b":300000\r\n"):
            received += secure.recv(4096)
        assert received == b"+OK\r\n:300000\r\n"
    stranger = ssl.create_default_context(cafile=str(guarded.ca))
    assert refused(guarded.port, stranger), "served without a client certificate"
    with Raw(guarded.port) as plain:
        plain.send(request("PING"))
        assert plain.closed_by_server()


def test_redis_py_over_tls(guarded: Guarded) -> None:
    """redis-py, blocking and asyncio, with pipelines and client-side caching."""
    options: dict[str, Any] = {
        "host": "localhost",
        "port": guarded.port,
        "ssl": True,
        "ssl_ca_certs": str(guarded.ca),
        "ssl_certfile": str(guarded.certificate),
        "ssl_keyfile": str(guarded.key),
    }
    with redis.Redis(**options) as client:
        client.flushall()
        pipe = client.pipeline(transaction=False)
        for number in range(500):
            pipe.set(f"k{number}", b"v" * 2000)
        assert pipe.execute() == [True] * 500
        assert client.mget([f"k{number}" for number in range(500)]) == [b"v" * 2000] * 500

    async def run() -> bytes | None:
        async with redis.asyncio.Redis(**options) as client:
            await client.set("a", b"x" * 1_000_000)
            found: bytes | None = await client.get("a")
            return found

    assert asyncio.run(run()) == b"x" * 1_000_000


def test_native_client_over_tls(guarded: Guarded) -> None:
    """The native client shows its certificate, and invalidates by tag."""
    with connect(
        f"stratas://localhost:{guarded.port}",
        tls_ca=str(guarded.ca),
        tls_certificate=str(guarded.certificate),
        tls_key=str(guarded.key),
        shared=False,
    ) as cache:
        assert cache.put("k", b"x" * 1_000_000, tags={"t"})
        assert cache.get_many(["k", "none"]) == {"k": b"x" * 1_000_000}
        cache.invalidate_tags({"t"})
        assert cache.get("k") is MISS


def test_redis_cli_over_tls(guarded: Guarded) -> None:
    """redis-cli with --tls, where it was built with it."""
    program = shutil.which("redis-cli")
    if program is None:
        pytest.skip("redis-cli is not installed")
    command = [program, "-h", "localhost", "-p", str(guarded.port), "--tls", "--cacert", str(guarded.ca)]
    command += ["--cert", str(guarded.certificate), "--key", str(guarded.key), "PING"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout == "PONG\n"


def test_a_node_calls_another(guarded: Guarded) -> None:
    """The context for calls shows the node's own certificate and checks the other's name."""
    settings: dict[str, Any] = {"tls_certificate": guarded.certificate, "tls_key": guarded.key, "tls_ca": guarded.ca}
    context = tls.calling(ServerConfig(**settings))
    assert context is not None

    async def ping(server_hostname: str) -> bytes:
        opened = asyncio.open_connection("localhost", guarded.port, ssl=context, server_hostname=server_hostname)
        reader, writer = await opened
        writer.write(request("PING"))
        reply = await reader.readline()
        writer.close()
        return reply

    assert asyncio.run(ping("localhost")) == b"+PONG\r\n"
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(ping("other.example"))
    assert tls.calling(ServerConfig()) is None


def test_who_never_shakes_hands_is_closed(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger can't hold a connection by being silent before TLS has begun; who speaks it is served meanwhile."""
    monkeypatch.setattr(reception, "TLS_HANDSHAKE_S", 0.3)
    config = ServerConfig(tls_certificate=guarded.certificate, tls_key=guarded.key)

    async def main() -> None:
        engine = MultiLevelCache(NodeConfig())
        node = server.NodeServer(engine, config)
        port = (await node.start()).port
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        context = ssl.create_default_context(cafile=str(guarded.ca))
        context.check_hostname = False
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(request("PING"))
        assert await reader.readline() == b"+PONG\r\n"
        for stranger, _ in silent:
            assert await asyncio.wait_for(stranger.read(), 10) == b""
        writer.write(request("PING"))
        assert await reader.readline() == b"+PONG\r\n"
        for _, end in [*silent, (reader, writer)]:
            end.close()
        await node.stop(1)
        engine.close()

    uvloop.run(main())


def test_who_shakes_hands_counts_as_a_connection(guarded: Guarded) -> None:
    """Strangers who never begin TLS hold no more places, and files, than clients may; and they give them back."""
    config = ServerConfig(tls_certificate=guarded.certificate, tls_key=guarded.key, connections_max=10)
    context = ssl.create_default_context(cafile=str(guarded.ca))
    context.check_hostname = False

    async def pong(port: int) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(request("PING"))
        assert await reader.readline() == b"+PONG\r\n"
        return writer

    async def main() -> None:
        engine = MultiLevelCache(NodeConfig())
        node = server.NodeServer(engine, config)
        port = (await node.start()).port
        ends = [await pong(port) for _ in range(4)]
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        for stranger, _ in silent[6:]:
            assert await asyncio.wait_for(stranger.read(), 5) == b""
        assert node.stats()["clients"] == 4
        assert node.stats()["connections_rejected"] == 54
        with pytest.raises(OSError):  # noqa: PT011 - closed, or reset, in the middle of the handshake
            await pong(port)
        for _, end in silent:
            end.close()
        async with asyncio.timeout(5):
            while node._reception is not None and node._reception.greeting:
                await asyncio.sleep(0.005)
        ends += [await pong(port) for _ in range(6)]
        for end in ends:
            end.close()
        await node.stop(1)
        engine.close()

    uvloop.run(main())


def test_a_node_that_may_open_no_more_files_accepts_again_later(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks away for a while rather than try for ever at full speed; who waits is served when there is room."""
    monkeypatch.setattr(reception, "AGAIN_S", 0.05)
    tried: list[int] = []

    class Listener(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            tried.append(len(tried))
            if len(tried) < 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def main() -> None:
        context = tls.listening(ServerConfig(tls_certificate=guarded.certificate, tls_key=guarded.key))
        assert context is not None
        listener = Listener(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        served = reception.Reception([listener], context, asyncio.Protocol, lambda: True)
        trusting = ssl.create_default_context(cafile=str(guarded.ca))
        trusting.check_hostname = False
        port = listener.getsockname()[1]
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, ssl=trusting), 10)
        assert tried == [0, 1, 2, 3]  # the last one finds nobody else
        writer.close()
        served.close()

    uvloop.run(main())


def test_incomplete_settings_are_refused(tmp_path: Path) -> None:
    """Half a certificate, an authority without one, or files that are not there: told at the start, with names."""
    for settings in ({"tls_certificate": tmp_path}, {"tls_key": tmp_path}, {"tls_ca": tmp_path}):
        with pytest.raises(UsageError, match="tls_"):
            ServerConfig(**settings).validate()
    with pytest.raises(UsageError, match=r"none\.crt"):
        tls.listening(ServerConfig(tls_certificate=tmp_path / "none.crt", tls_key=tmp_path / "none.key"))
