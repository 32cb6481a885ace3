"""TLS on the whole way: certificates of both sides, names, views of a cluster, pushes; and every wrong setting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from stratacache.client import MISS, UnavailableError, UsageError, connect
from stratacache.client.transport import blocking
from stratacache.client.view import ShardInfo, View
from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import Identity, NodeServer

from .certificates import make_certificates
from .conftest import InLoop
from .servers import running, wait_until

NAME = "cache.internal"


class TlsCluster:
    """Two shards of one cluster in a thread: TLS, certificates of clients asked for, certificates without addresses."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.certificate, self.key = make_certificates(directory, NAME)
        self.engines: list[MultiLevelCache] = []
        self.servers: list[NodeServer] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.run(self._start())

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    async def _start(self) -> None:
        config = ServerConfig(
            port=0, tls_certificate=self.certificate, tls_key=self.key, tls_client_ca=self.ca, host="127.0.0.1"
        )
        shards = []
        for number in range(2):
            engine = MultiLevelCache(NodeConfig(), post=self.loop.call_soon_threadsafe)
            identity = Identity(cluster="c", shard=f"shard-{number}", incarnation=7)
            server = NodeServer(engine, config, identity=identity)
            ends = await server.start()
            shards.append(ShardInfo(id=identity.shard, host=ends.host, port=ends.port, incarnation="7"))
            self.engines.append(engine)
            self.servers.append(server)
        for server in self.servers:
            server.set_view(View(epoch=3, cluster="c", shards=tuple(shards)).to_bytes(), 3)

    async def _stop(self) -> None:
        for server in self.servers:
            await server.stop(1.0)

    def close(self) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        for engine in self.engines:
            engine.close()

    @property
    def seed(self) -> str:
        return f"stratas://127.0.0.1:{self.servers[0].endpoints.port}"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "tls_ca": str(self.ca),
            "tls_certificate": str(self.certificate),
            "tls_key": str(self.key),
            "tls_server_name": NAME,
            "strict": True,
            "shared": False,
        }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsCluster]:
    """One cluster for all tests here."""
    made = TlsCluster(tmp_path_factory.mktemp("tls"))
    yield made
    made.close()


def open_client(kind: str, place: str, **options: Any) -> Any:
    return connect(place, **options) if kind == "sync" else InLoop(place, **options)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_shards_of_a_view_are_reached_by_tls(cluster: TlsCluster, kind: str) -> None:
    """One seed leads to both shards, each with client certificate and name; large values and pushes pass as well."""
    writer = open_client(kind, cluster.seed, **cluster.options)
    reader = open_client(kind, cluster.seed, near_bytes_max=8 << 20, **cluster.options)
    try:
        items = {f"k{number}": bytes([number]) * 100_000 for number in range(40)}
        assert writer.put_many(items, tags=["t"]) == 40
        assert all(len(engine) > 5 for engine in cluster.engines), "both shards hold a part"
        assert reader.get_many(items) == items
        wait_until(lambda: reader.stats()["client"]["near"]["live_parts"] == 2, what="pushes of both shards")

        def held() -> bool:
            assert reader.get_many(items) == items
            return bool(reader.stats()["client"]["near"]["entries"] == 40)

        wait_until(held, what="a near cache that is filled over TLS")
        assert writer.invalidate_tags(["t"]) == 40
        wait_until(lambda: reader.get("k1") is MISS, what="the push over TLS")
    finally:
        writer.close()
        reader.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("wrong", ["certificate", "authority", "name"])
def test_a_stranger_is_refused_and_refuses(cluster: TlsCluster, tmp_path: Path, kind: str, wrong: str) -> None:
    """No certificate, another authority, another name than the certificate's: an error, and no byte of a value."""
    options = cluster.options
    if wrong == "certificate":
        options |= {"tls_certificate": None, "tls_key": None}
    elif wrong == "authority":
        options |= {"tls_ca": str(make_certificates(tmp_path)[0])}
    else:
        options |= {"tls_server_name": None}
    said = {"certificate": "shard|127", "authority": "verify failed", "name": "127.0.0.1"}[wrong]

    def look() -> None:
        client = open_client(kind, cluster.seed, **options)  # the blocking one connects here, the other with its call
        try:
            client.get("k")
        finally:
            client.close()

    with pytest.raises(UnavailableError, match=said):
        look()


def test_settings_that_would_not_be_heeded_are_refused(cluster: TlsCluster, tmp_path: Path) -> None:
    """TLS options with a plain address, and files that are not there or do not match: told at once, by name."""
    with pytest.raises(UsageError, match=r"tls_ca is of no use with strata://.*stratas://"):
        connect("strata://127.0.0.1:1", tls_ca=str(cluster.ca), shared=False)
    with pytest.raises(UsageError, match=r"tls_ca=.*none\.pem"):
        connect(cluster.seed, tls_ca=str(tmp_path / "none.pem"), shared=False)
    with pytest.raises(UsageError, match="tls_certificate"):
        connect(cluster.seed, tls_certificate=str(cluster.certificate), tls_key=str(cluster.ca), shared=False)
    with pytest.raises(UsageError, match="both tls_certificate and tls_key"):
        connect(cluster.seed, tls_key=str(cluster.key), shared=False)


def test_a_put_after_a_restart_finds_the_dead_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that ended while it rested is noticed before a put, which must not run twice, is sent on it."""
    monkeypatch.setattr(blocking, "IDLE_CHECK_S", 0.0)
    ca, certificate, key = make_certificates(tmp_path)
    with (
        running(1, "--tls-cert", str(certificate), "--tls-key", str(key)) as nodes,
        connect(f"stratas://{nodes[0].place}", tls_ca=str(ca), strict=True, shared=False) as cache,
    ):
        assert cache.put("k", 1)
        pool = cast("Any", cache)._backend.shell.pools[cache.view.shards[0].id]
        assert pool.idle[0].alive()
        nodes[0].kill()
        wait_until(lambda: not pool.idle[0].alive(), what="the end of the connection")
        nodes[0] = nodes[0].restart()
        assert cache.put("k", 2)
        assert cache.get("k") == 2
