"""What client libraries give their users on a node is what they give on a real redis-server, call by call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import redis.asyncio

from tests.wire.raw import Raw

pytestmark = pytest.mark.server

FAR = datetime(2096, 10, 2, tzinfo=UTC)
Calls = list[tuple[str, Any]]


def port_of(client: Raw) -> int:
    port: int = client.socket.getpeername()[1]
    return port


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the error that it raises."""
    try:
        return comparable(call())
    except Exception as error:  # its kind and text are what is compared
        return comparable(error)


def comparable(value: Any) -> Any:
    """Errors by their kind and text, also those that stand among results."""
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"
    return [comparable(item) for item in value] if isinstance(value, list) else value


def redis_py_calls(port: int, protocol: int) -> Calls:
    """Calls of redis-py by everything that reads, writes, counts and expires strings."""
    client: Any = redis.Redis(port=port, protocol=protocol, decode_responses=True)
    other: Any = redis.Redis.from_url(f"redis://localhost:{port}/0?protocol={protocol}&health_check_interval=1")
    pool: Any = redis.Redis(connection_pool=redis.BlockingConnectionPool(port=port, max_connections=1))
    pubsub = client.pubsub()
    day = timedelta(days=1)
    calls: list[Callable[[], Any]] = [
        lambda: [client.set("a", "1", px=day), client.set("a", "2", xx=True, get=True), client.ttl("a")],
        lambda: [client.set("a", "3", nx=True, get=True), client.set("a", "4", keepttl=True), client.pttl("none")],
        lambda: [client.set("e", "1", exat=FAR), client.expiretime("e"), client.set("e", "1", pxat=FAR)],
        lambda: client.set("a", "1", ex="x"),
        lambda: [client.getex("e", persist=True), client.ttl("e"), client.getex("e", exat=FAR), client.getex("none")],
        lambda: [client.getdel("e"), client.getdel("e"), client.setnx("n", "1"), client.setnx("n", "2")],
        lambda: [client.mset({"x": 1, "y": 2}), client.mget("x", "none", "y"), client.msetnx({"x": 1, "z": 2})],
        lambda: [client.expire("x", day, nx=True), client.expire("x", 5, gt=True), client.expire("x", 5000, lt=True)],
        lambda: [client.expireat("x", FAR), client.pexpireat("x", FAR, gt=True), client.pexpiretime("x")],
        lambda: [client.persist("x"), client.persist("x"), client.ttl("x"), client.expire("none", 5)],
        lambda: client.expire("x", 5, nx=True, xx=True),
        lambda: [client.incr("i"), client.incrby("i", 5), client.decr("i", 2), client.incrbyfloat("i", 0.5)],
        lambda: client.incr("i"),
        lambda: [client.append("s", "hello"), client.setrange("s", 1, "a"), client.getrange("s", 0, 2)],
        lambda: [client.strlen("s"), client.type("s"), client.type("none"), client.object("encoding", "a")],
        lambda: [client.exists("s", "s", "none"), client.touch("s", "none"), client.unlink("s", "none")],
        lambda: [sorted(client.scan_iter("[axy]", count=2)), sorted(client.keys("?")), client.dbsize()],
        lambda: client.delete(*client.scan_iter("[xy]", _type="string")),
        lambda: client.pipeline().set("p", 1).incr("p").get("p").execute(),
        lambda: client.pipeline().set("p", "x").incr("p").get("p").execute(raise_on_error=False),
        lambda: client.pipeline(transaction=False).get("p").execute_command("NOSUCH").execute(),
        lambda: client.pipeline().set("p", "y").execute_command("GET").execute(),
        lambda: [client.get("p"), client.pipeline().execute(), client.transaction(lambda pipe: pipe.get("p"))],
        lambda: [client.client_setname("me"), client.client_getname(), client.client_info()["name"]],
        lambda: [client.client_kill_filter(_id=999_999_999), client.client_list(client_id=["999999999"])],
        lambda: client.client_kill("1.2.3.4:5"),
        lambda: [client.client_trackinginfo(), client.client_getredir(), client.client_no_evict("ON")],
        lambda: [client.command_getkeys("MSET", "a", 1, "b", 2), client.config_get("nosuch"), client.echo("x")],
        lambda: [client.info("replication")["role"], client.info("keyspace")["db0"]["keys"], client.info("cluster")],
        lambda: [pubsub.subscribe("c"), pubsub.get_message(timeout=5), pubsub.ping()],
        lambda: [pubsub.get_message(timeout=5), pubsub.unsubscribe(), pubsub.get_message(timeout=5)],
        lambda: [other.ping(), pool.ping(), pool.get("p"), client.reset(), client.select(0), client.ping()],
        lambda: client.execute_command("SELECT", 99),
        lambda: [client.lock("l", timeout=60).acquire(blocking=False), client.lock("l").acquire(blocking=False)],
        lambda: [client.flushdb(asynchronous=True), client.flushall(), client.keys()],
    ]
    try:
        return [(str(number), outcome(call)) for number, call in enumerate(calls)]
    finally:
        for one in (pubsub, client, other, pool):
            one.close()


def litellm_calls(port: int) -> Calls:
    """LiteLLM's caches, without what needs scripts, lists and sets."""
    from litellm.caching.dual_cache import DualCache
    from litellm.caching.in_memory_cache import InMemoryCache
    from litellm.caching.redis_cache import RedisCache

    cache: Any = RedisCache(host="127.0.0.1", port=port)
    dual: Any = DualCache(in_memory_cache=InMemoryCache(), redis_cache=cache)
    steps: list[dict[str, Any]] = [
        {"key": "g1", "increment_value": 1.0, "ttl": 60},
        {"key": "g2", "increment_value": 2.5, "ttl": None},
    ]
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "set": lambda: cache.async_set_cache("n", {"a": [1]}, nx=True, ttl=60),
        "set again": lambda: cache.async_set_cache("n", 2, nx=True, ttl=60),
        "get": lambda: cache.async_get_cache("n"),
        "ttl": lambda: cache.async_get_ttl("n"),
        "refresh": lambda: cache.async_refresh_ttl("n", 500),
        "refreshed": lambda: cache.async_get_ttl("n"),
        "no ttl": lambda: cache.async_get_ttl("none"),
        "pipeline": lambda: cache.async_set_cache_pipeline([("c", 1), ("d", "x")], ttl=60),
        "pipeline with ttls": lambda: cache.async_set_cache_pipeline_with_ttls([("p", 1, 30), ("q", {"z": 2}, 60)]),
        "batch": lambda: cache.async_batch_get_cache(["p", "q", "r", "n"]),
        "counts": lambda: cache.async_batch_get_counts(["p", "none"]),
        "wrong counts": lambda: cache.async_batch_get_counts(["q"]),
        "increment": lambda: cache.async_increment("f", 1.5, ttl=60),
        "increments": lambda: cache.async_increment_pipeline(steps),
        "delete": lambda: cache.async_delete_cache("p"),
        "delete keys": lambda: cache.delete_cache_keys(["q", "none"]),
        "ping": cache.ping,
        "test": cache.test_connection,
        "write": lambda: cache.batch_cache_write("w", 1, ttl=60),
        "flush": cache.flush_cache_buffer,
        "both": lambda: dual.async_set_cache("d", {"a": 1}, ttl=60),
        "from the second": lambda: forgetful(dual).async_get_cache("d"),
        "batch from both": lambda: forgetful(dual).async_batch_get_cache(["d", "none"]),
        "increment both": lambda: dual.async_increment_cache("di", 2.0, ttl=60),
        "scan": lambda: sorted_keys(cache),
    }

    async def run() -> Calls:
        found = []
        for name, call in calls.items():
            try:
                found.append((name, await call()))
            except Exception as error:  # the kind of error is what is compared
                found.append((name, type(error).__name__))
        await cache.disconnect()
        return found

    def forgetful(cache: Any) -> Any:
        cache.in_memory_cache.flush_cache()
        return cache

    async def sorted_keys(cache: Any) -> list[bytes]:
        return sorted(await cache.async_scan_iter(pattern="*", count=100))

    once = [("add", outcome(lambda: cache.set_cache("a", 1, nx=True, ttl=9)))]
    once += [("add again", outcome(lambda: cache.set_cache("a", 2, nx=True))), ("got", cache.get_cache("a"))]
    once += [("count", cache.increment_cache("i", 2, ttl=50)), ("counts", cache.batch_get_counts(["i", "none"]))]
    once += [("info", cache.info()["redis_mode"]), ("clients", bool(cache.client_list())), ("all", cache.flushall())]
    return once + asyncio.run(run())


def django_calls(port: int) -> Calls:
    """Django's backend: versions, default and negative timeouts, many keys, and its asynchronous methods."""
    from django.core.cache.backends.redis import RedisCache

    cache: Any = RedisCache(f"redis://127.0.0.1:{port}", {"KEY_PREFIX": "shop", "TIMEOUT": 300})
    calls: dict[str, Callable[[], Any]] = {
        "add": lambda: [cache.add("a", {"x": 1}), cache.add("a", 2), cache.get("a"), cache.add("b", 1, 0)],
        "versions": lambda: [cache.set("a", 1, version=2), cache.get("a", version=2), cache.incr_version("a")],
        "versions again": lambda: [cache.get("a"), cache.get("a", version=2), cache.decr_version("none")],
        "timeouts": lambda: [cache.set("t", 1, -1), cache.get("t"), cache.set("t", 1, None), cache.touch("t", None)],
        "touch": lambda: [cache.touch("t", 50), cache.touch("t", 0), cache.get("t"), cache.touch("t")],
        "counters": lambda: [cache.set("i", 1), cache.incr("i", 5), cache.decr("i", 10), cache.incr("i", -1)],
        "no counter": lambda: [cache.set("s", "text"), cache.incr("s")],
        "counter none": lambda: cache.incr("none"),
        "many": lambda: [cache.set_many({"x": 1, "y": [2]}, 60), cache.get_many(["x", "none", "y"])],
        "delete": lambda: [cache.delete("x"), cache.delete("x"), cache.delete_many(["y", "none"]), cache.get("y")],
        "or set": lambda: [cache.get_or_set("o", lambda: 5, 60), cache.get_or_set("o", 6), "o" in cache],
        "none": lambda: [cache.set("null", None), cache.get("null", "default"), cache.get("none", "default")],
        "async": lambda: asyncio.run(several()),
        "clear": lambda: [cache.clear(), cache.get("o")],
    }

    async def several() -> Any:
        await cache.aset_many({"m": 1, "n": True})
        found = await cache.aget_many(["m", "n"])
        return [
            found,
            await cache.aincr("m"),
            await cache.ahas_key("m"),
            await cache.adelete("n"),
            await cache.aget("n"),
        ]

    return [(name, outcome(call)) for name, call in calls.items()]


def test_redis_py(node: Raw, redis_server: Raw) -> None:
    """Every call of redis-py that this cache has commands for, over both protocols."""
    for protocol in (2, 3):
        ours, theirs = (redis_py_calls(port_of(client), protocol) for client in (node, redis_server))
        assert [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]] == []


@pytest.mark.xdist_group("litellm")  # to import it takes seconds
def test_litellm(node: Raw, redis_server: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM's Redis cache and its two-level cache."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look at the network
    pytest.importorskip("litellm")
    assert litellm_calls(port_of(node)) == litellm_calls(port_of(redis_server))


def test_django(node: Raw, redis_server: Raw) -> None:
    """Django's own Redis backend."""
    pytest.importorskip("django")
    assert django_calls(port_of(node)) == django_calls(port_of(redis_server))
