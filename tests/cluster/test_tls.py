"""TLS of a cluster: what configuration is refused, and a real cluster whose every connection is encrypted."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from stratacache.client import CacheClient, connect
from stratacache.cluster import ClusterHandle, start
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.controller_shell import serves
from stratacache.cluster.tls import Renewal, Trust, check_files
from stratacache.node.errors import UnavailableError, UsageError
from tests.client.certificates import make_certificates

NAME = "localhost"
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


def test_a_renewed_certificate_is_shown(tmp_path: Path) -> None:
    """The files' change is noticed once, and the server's context then shows the new certificate."""
    (tmp_path / "new").mkdir()
    _, certificate, key = make_certificates(tmp_path)
    ca, fresh_certificate, fresh_key = make_certificates(tmp_path / "new")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    renewal = Renewal(str(certificate), str(key))
    assert not renewal.apply(context)
    certificate.write_bytes(fresh_certificate.read_bytes())
    key.write_bytes(fresh_key.read_bytes())
    os.utime(certificate, ns=(1, 1))
    assert renewal.apply(context)
    assert not renewal.apply(context)
    here, there = socket.socketpair()
    with here, there:
        client = ssl.create_default_context(cafile=ca)
        inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = client.wrap_bio(inbound, outbound, server_hostname=NAME)
        answer_in, answer_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        answering = context.wrap_bio(answer_in, answer_out, server_side=True)
        done = False
        while not done:
            done = True
            for side in (asking, answering):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    done = False
                answer_in.write(outbound.read())
                inbound.write(answer_out.read())


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
