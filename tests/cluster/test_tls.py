"""TLS of a cluster: what configuration is refused, and a real cluster whose every connection is encrypted."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray

from stratacache.client import CacheClient, connect
from stratacache.cluster import ClusterHandle, start
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.controller_shell import serves
from stratacache.cluster.tls import Fresh, Renewal, Trust, check_files, credentials_of, keep_renewed
from stratacache.node.errors import UnavailableError, UsageError
from tests.client.certificates import make_certificates

NAME = "localhost"
ROOT = Path(__file__).parents[2]


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something; the caller has the deadline."""
    while not holds():
        await asyncio.sleep(0.005)


on_ray = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tls_key": "/k", "tls_name": "n"}, "tls_certificate is missing"),
        ({"tls_certificate": "/c", "tls_name": "n"}, "tls_key is missing"),
        ({"tls_certificate": "/c", "tls_key": "/k"}, "tls_name is missing"),
        ({"tls_ca": "/a"}, "tls_certificate is missing"),
        ({"tls_certificate": "c", "tls_key": "/k", "tls_name": "n"}, "tls_certificate c is relative"),
    ],
)
def test_half_a_configuration_is_refused(changes: dict[str, str], expected: str) -> None:
    """What is missing or relative is named, before anything is started."""
    with pytest.raises(UsageError, match=expected):
        ClusterConfig(**changes).validate()  # type: ignore[arg-type]


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """A file that is not there, a key of another certificate, an authority that is none."""
    (tmp_path / "other").mkdir()
    ca, certificate, key = map(str, make_certificates(tmp_path))
    _, _, other_key = map(str, make_certificates(tmp_path / "other"))

    def config(**changes: str) -> ClusterConfig:
        fields = {"tls_certificate": certificate, "tls_key": key, "tls_ca": ca, "tls_name": NAME}
        return ClusterConfig(**{**fields, **changes})  # type: ignore[arg-type]

    check_files(config())
    check_files(ClusterConfig())
    with pytest.raises(UsageError, match=r"tls_key .*nowhere can't be read: No such file"):
        check_files(config(tls_key=str(tmp_path / "nowhere")))
    with pytest.raises(UsageError, match="do not go together"):
        check_files(config(tls_key=other_key))
    with pytest.raises(UsageError, match="do not go together"):
        check_files(config(tls_ca=key))


@pytest.mark.parametrize(("dns", "days", "why"), [((), 30, "expired"), (("other.name",), 36_500, "Hostname mismatch")])
def test_a_cluster_whose_certificate_nobody_would_believe_is_not_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dns: tuple[str, ...], days: int, why: str
) -> None:
    """It would run, and every call would miss. A shard that comes back says so in its log."""
    ca, certificate, key = map(str, make_certificates(tmp_path, *dns, days=days))
    config = ClusterConfig(tls_certificate=certificate, tls_key=key, tls_ca=ca, tls_name=NAME)
    with pytest.raises(UsageError, match=rf"{certificate} would be believed by nobody: .*{why}"):
        check_files(config)
    check_files(config, comes_back=True)
    assert why in caplog.text


def test_a_certificate_that_does_not_say_who_signed_it_is_refused_where_python_is_strict(tmp_path: Path) -> None:
    """From 3.13 on its contexts insist on RFC 5280; until then such certificates are as good as others."""
    ca, certificate, key = map(str, make_certificates(tmp_path, says_who_signed=False))
    strict = ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT
    with pytest.raises(UsageError, match="Missing Authority Key Identifier") if strict else nullcontext():
        check_files(ClusterConfig(tls_certificate=certificate, tls_key=key, tls_ca=ca, tls_name=NAME))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_documented_commands_make_what_is_believed(tmp_path: Path) -> None:
    """By this Python, and by one that insists on RFC 5280."""
    text = (ROOT / "docs" / "operations.md").read_text()
    commands = next(block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "openssl" in block)
    verify = "openssl verify -x509_strict -verify_hostname cache.internal -CAfile ca.crt tls.crt"
    subprocess.run(["sh", "-ec", commands + verify], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    files = {"tls_certificate": str(tmp_path / "tls.crt"), "tls_key": str(tmp_path / "tls.key")}
    check_files(ClusterConfig(**files, tls_ca=str(tmp_path / "ca.crt"), tls_name="cache.internal"))


class Renewed:
    """A server on files that a test replaces, watched as a shard watches its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = make_certificates(directory)
        ca, certificate, key = map(str, self.files)
        self.config = ClusterConfig(tls_certificate=certificate, tls_key=key, tls_ca=ca, tls_name=NAME)
        self.first_ca = self.kept("first-ca", self.files[0].read_bytes())
        self.renewal = Renewal(self.config)
        self.listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.listening.load_cert_chain(certificate, key)
        self.credentials = credentials_of(self.config)

    def kept(self, name: str, content: bytes) -> str:
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def others(self, *dns: str, days: int = 36_500) -> list[bytes]:
        """What another authority, its certificate and the key are."""
        directory = self.directory / "others"
        directory.mkdir()
        return [file.read_bytes() for file in make_certificates(directory, *dns, days=days)]

    def replace(self, *contents: bytes | None) -> None:
        """Put these in the place of authority, certificate and key; None takes the file away."""
        for file, content in zip(self.files, contents, strict=True):
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_bytes(content)

    def look(self) -> Fresh | None:
        return self.renewal.look(self.listening, self.credentials)

    async def is_believed(self, believer: ssl.SSLContext) -> bool:
        """By who connects now."""
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=self.listening)
        host, port = server.sockets[0].getsockname()[:2]
        try:
            _, writer = await asyncio.open_connection(host, port, ssl=believer, server_hostname=NAME)
        except (ssl.SSLError, ConnectionError):
            return False
        else:
            writer.close()
            return True
        finally:
            server.close()


def test_a_renewed_certificate_is_shown(tmp_path: Path) -> None:
    """The change is noticed once; shards believe each other's new certificates, of another authority too."""
    here = Renewed(tmp_path)
    old, new = ssl.create_default_context(cafile=here.first_ca), here.others()

    async def main() -> None:
        assert here.look() is None
        assert here.credentials.tls is not None
        here.replace(*new)
        assert not await here.is_believed(ssl.create_default_context(cafile=str(here.files[0])))
        fresh = here.look()
        assert fresh is not None
        assert await here.is_believed(old), "nothing is shown before it is asked for"
        fresh.show(here.listening, here.credentials)
        assert here.look() is None
        assert await here.is_believed(ssl.create_default_context(cafile=str(here.files[0])))
        assert await here.is_believed(here.credentials.tls)
        assert not await here.is_believed(old)

    asyncio.run(main())


SPOILT: dict[str, Callable[[list[bytes], list[bytes]], list[bytes | None]]] = {
    "the certificate before its key": lambda was, new: [new[0], new[1], was[2]],
    "the key before its certificate": lambda was, new: [new[0], was[1], new[2]],
    "another authority's certificate": lambda was, new: [was[0], new[1], new[2]],
    "half a certificate": lambda was, new: [new[0], new[1][: len(new[1]) // 2], new[2]],
    "half a key": lambda was, new: [new[0], new[1], new[2][: len(new[2]) // 2]],
    "half an authority": lambda was, new: [new[0][: len(new[0]) // 2], new[1], new[2]],
    "no certificate": lambda was, new: [new[0], None, new[2]],
    "no key": lambda was, new: [new[0], new[1], None],
    "nothing": lambda was, new: [None, None, None],
    "empty files": lambda was, new: [b"", b"", b""],
}


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
def test_files_that_are_just_replaced_take_nothing_from_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: Callable[[list[bytes], list[bytes]], list[bytes | None]]
) -> None:
    """Who connects meanwhile finds the certificate before; when the files are whole, the new one is shown."""
    here = Renewed(tmp_path)
    was, new = [file.read_bytes() for file in here.files], here.others()
    old = ssl.create_default_context(cafile=here.first_ca)

    async def main() -> None:
        here.replace(*spoilt(was, new))
        watching = asyncio.create_task(keep_renewed(here.renewal, here.listening, here.credentials, 0.01))
        await until(lambda: "the one before is shown on" in caplog.text or watching.done())
        assert await here.is_believed(old)
        here.replace(*new)
        fresh = ssl.create_default_context(cadata=new[0].decode())
        while not await here.is_believed(fresh):
            await asyncio.sleep(0.01)
        assert not watching.done()
        watching.cancel()

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize(("dns", "days", "why"), [((), 30, "expired"), (("other.name",), 36_500, "Hostname mismatch")])
def test_a_certificate_that_nobody_would_believe_is_not_shown(
    tmp_path: Path, dns: tuple[str, ...], days: int, why: str
) -> None:
    """While the one before is good. When that is none any more, nothing is lost by the new one."""
    here = Renewed(tmp_path)
    worse = here.others(*dns, days=days)
    here.replace(*worse)
    with pytest.raises(UsageError, match=why):
        here.look()
    here.listening.load_cert_chain(here.files[1], here.files[2])
    assert here.look() is not None


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """The authority, the certificate and its key."""
    ca, certificate, key = map(str, make_certificates(tmp_path_factory.mktemp("tls")))
    return ca, certificate, key


@pytest.fixture(scope="module")
def cluster(ray_session: str, files: tuple[str, str, str]) -> Iterator[ClusterHandle]:
    """Two shards that speak TLS."""
    ca, certificate, key = files
    tls = {"tls_certificate": certificate, "tls_key": key, "tls_ca": ca, "tls_name": NAME}
    with start(name="secret", shards=2, l1_bytes_max=16 << 20, l2_bytes_max=0, token="t", **tls) as handle:
        yield handle


class TestOnRay:
    """A real cluster."""

    pytestmark = on_ray

    def test_clients_outside_and_inside_ray(self, cluster: ClusterHandle, files: tuple[str, str, str]) -> None:
        """By address with the authority and the name; inside Ray both come with the view, in tasks too."""
        assert cluster.address.startswith("stratas://")
        assert cluster.tls == Trust(files[0], NAME)
        outside = connect(
            cluster.address, token="t", tls_ca=files[0], tls_server_name=NAME, use_unix=False, strict=True
        )
        with outside as cache:
            assert cache.put_many({f"k{index}": index for index in range(40)}, tags={"t"}) == 40
            assert cache.get_many([f"k{index}" for index in range(40)]) == {f"k{index}": index for index in range(40)}

        @ray.remote(num_cpus=0)
        def task() -> object:
            with connect(cluster="secret", strict=True, use_unix=False) as here:
                return here.get("k7"), here.invalidate_tags({"t"})

        assert ray.get(task.remote()) == (7, 40)

    def test_a_stranger_is_not_believed(self, cluster: ClusterHandle, files: tuple[str, str, str]) -> None:
        """Without the authority, under another name, and without TLS nobody is talked to."""
        plain = cluster.address.replace("stratas", "strata")
        for address, options in (
            (cluster.address, {}),
            (cluster.address, {"tls_ca": files[0], "tls_server_name": "another.name"}),
            (plain, {}),
        ):
            with pytest.raises(UnavailableError):
                connect(address, token="t", use_unix=False, **options)

    def test_shards_speak_tls_with_each_other(self, cluster: ClusterHandle, files: tuple[str, str, str]) -> None:
        """A plain Redis client on one shard reaches the keys of the other through a link, encrypted on both ways."""
        context = ssl.create_default_context(cafile=files[0])
        with connect(cluster.address, token="t", tls_ca=files[0], tls_server_name=NAME, strict=True) as cache:
            self.everything_through_one(cache, cluster, context)

    def everything_through_one(self, cache: CacheClient, cluster: ClusterHandle, context: ssl.SSLContext) -> None:
        cache.put_many({f"k{index}": str(index) for index in range(20)})
        host, _, port = cluster.endpoints["shard-0"].rpartition(":")
        with (
            socket.create_connection((host, int(port)), 10) as raw,
            context.wrap_socket(raw, server_hostname=NAME) as connection,
            connection.makefile("rwb") as stream,
        ):
            stream.write(b"AUTH t\r\n")
            for index in range(20):
                stream.write(b"GET k%d\r\n" % index)
            stream.flush()
            assert stream.readline() == b"+OK\r\n"
            for index in range(20):
                assert (stream.readline(), stream.readline()) == (
                    b"$%d\r\n" % len(str(index)),
                    b"%d\r\n" % index,
                )

    def test_the_controllers_probe_speaks_tls(self, cluster: ClusterHandle, files: tuple[str, str, str]) -> None:
        """It says that a shard serves only when it has believed it."""
        for address in cluster.endpoints.values():
            assert serves(address, "t", trust=Trust(files[0], NAME))
            assert not serves(address, "t", trust=Trust(files[0], "another.name"))
            assert not serves(address, "t", 1.0)

    def test_a_start_with_a_wrong_file_says_which(self, ray_session: str, files: tuple[str, str, str]) -> None:
        """One line for the user, and nothing is left of it."""
        tls = {"tls_certificate": files[1], "tls_key": "/nowhere/tls.key", "tls_name": NAME}
        with pytest.raises(UsageError, match=r"tls_key /nowhere/tls\.key can't be read"):
            start(name="halved", shards=1, l1_bytes_max=16 << 20, **tls)
