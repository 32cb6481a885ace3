"""Clients that know nothing of us, unchanged: redis-cli, redis-benchmark, redis-py, LiteLLM's cache, Django's cache."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.retry import Retry

from tests.wire.raw import Raw


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install redis-tools)")
    return path


def wait_until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.005)


def cli(port: int, *words: str, data: str | None = None) -> str:
    command = [tool("redis-cli"), "-p", str(port), *words]
    return subprocess.run(command, input=data, capture_output=True, text=True, check=True, timeout=20).stdout


@pytest.mark.server
def test_redis_cli(node: Raw, node_port: int) -> None:
    """Single commands, a script on standard input, RESP3, a scan, a pipe of raw commands."""
    assert cli(node_port, "PING") == "PONG\n"
    assert cli(node_port, "-3", "SET", "a", "1", "EX", "100") == "OK\n"
    assert cli(node_port, data="INCR a\nGET a\nTYPE a\nSC.GET a\n") == "2\n2\nstring\n0\n2\n"
    cli(node_port, data="".join(f"SET scan:{number} x\n" for number in range(50)))
    assert len(cli(node_port, "--scan", "--pattern", "scan:*").split()) == 50
    assert "redis_version" in cli(node_port, "INFO")
    piped = cli(node_port, "--pipe", data="".join(f"SET pipe:{number} x\r\n" for number in range(1000)))
    assert "errors: 0, replies: 1000" in piped


@pytest.mark.server
def test_redis_benchmark(node: Raw, node_port: int) -> None:
    """The load generator runs its tests, pipelined too, without an error."""
    command = [tool("redis-benchmark"), "-p", str(node_port), "-n", "2000", "-c", "10", "-q", "-P", "8"]
    command += ["-t", "ping_inline,ping_mbulk,set,get,incr,mset"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "rror" not in ended.stdout.replace("Could not fetch server CONFIG", "") + ended.stderr
    assert ended.stdout.count("requests per second") == 6


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(node: Raw, node_port: int, protocol: int) -> None:
    """The synchronous client: values, expiry, pipelines, transactions, scans, scripts of errors."""
    with redis.Redis(port=node_port, protocol=protocol, decode_responses=True, client_name="test") as client:
        assert client.ping()
        assert client.set("a", "1", ex=100)
        assert client.set("a", "2", nx=True) is None
        assert client.get("a") == "1"
        assert 95 <= client.ttl("a") <= 100
        assert client.mset({"b": "2", "c": "3"})
        assert client.mget("a", "b", "nope") == ["1", "2", None]
        assert client.incr("b", 5) == 7
        assert client.getdel("c") == "3"
        assert client.exists("a", "c") == 1
        client.set("t", "x")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr("t")
        pipeline = client.pipeline(transaction=True).set("p", "1").incr("p").get("p")
        assert pipeline.execute() == [True, 2, "2"]
        plain = client.pipeline(transaction=False)
        for number in range(500):
            plain.set(f"bulk:{number}", number)
        assert all(plain.execute())
        assert len(set(client.scan_iter("bulk:*", count=50))) == 500
        assert client.dbsize() == len(list(client.scan_iter()))
        assert client.info("server")["redis_mode"] == "standalone"
        assert client.config_get("maxmemory")["maxmemory"].isdigit()
        assert client.client_getname() == "test"
        assert any(line["name"] == "test" for line in client.client_list())
        assert client.execute_command("SC.PUT", "tagged", "v", "TAGS", 1, "t") in ("OK", b"OK", True)
        assert client.execute_command("SC.INVTAGS", "t") == 1
        assert client.get("tagged") is None
        assert client.flushdb()


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_asyncio(node: Raw, node_port: int, protocol: int) -> None:
    """The asyncio client, with many tasks at once."""

    async def main() -> None:
        async with redis.asyncio.Redis(port=node_port, protocol=protocol) as client:
            await asyncio.gather(*[client.set(f"k{number}", number) for number in range(50)])
            values = await asyncio.gather(*[client.get(f"k{number}") for number in range(50)])
            assert values == [str(number).encode() for number in range(50)]
            async with client.pipeline(transaction=True) as pipeline:
                assert await pipeline.incr("k1").expire("k1", 100).execute() == [2, True]
            assert len([key async for key in client.scan_iter("k*")]) == 50
            assert await client.delete(*[f"k{number}" for number in range(50)]) == 50

    asyncio.run(main())


def test_redis_py_client_side_caching(node: Raw, node_port: int) -> None:
    """Its cache is filled by reads and emptied by our invalidation messages, by tag as well."""
    other = redis.Redis(port=node_port)
    with redis.Redis(port=node_port, protocol=3, cache_config=CacheConfig(), decode_responses=True) as client:
        other.execute_command("SC.PUT", "a", "1", "TAGS", 1, "t")
        assert client.get("a") == "1"
        cache = client.get_cache()
        assert cache is not None
        assert cache.size == 1
        other.set("a", "2")
        wait_until(lambda: client.get("a") == "2")
        other.execute_command("SC.PUT", "a", "3", "TAGS", 1, "t")
        wait_until(lambda: client.get("a") == "3")
        other.execute_command("SC.INVTAGS", "t")
        wait_until(lambda: client.get("a") is None)
    other.close()


def test_redis_py_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A password is our token."""
    from tests.wire.processes import running_node

    with running_node("--token", "s3cret") as (_, port):
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port, retry=Retry(NoBackoff(), 0)).ping()
        for protocol in (2, 3):
            with redis.Redis(port=port, password="s3cret", protocol=protocol) as client:
                assert client.ping()


@pytest.mark.xdist_group("litellm")  # to import it takes seconds
def test_litellm_cache(node: Raw, node_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM's Redis cache: completions are cached, values expire, counters count, batches come back whole."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look at the network
    litellm = pytest.importorskip("litellm")
    from litellm.caching.caching import Cache
    from litellm.caching.redis_cache import RedisCache

    front = Cache(type="redis", host="127.0.0.1", port=str(node_port))
    ask: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    assert front.get_cache(**ask) is None
    front.add_cache(litellm.mock_completion(**ask, mock_response="one"), ttl=60, **ask)
    assert front.get_cache(**ask)["choices"][0]["message"]["content"] == "one"
    assert front.get_cache(**{**ask, "model": "other"}) is None

    cache = RedisCache(host="127.0.0.1", port=node_port)
    cache.set_cache("k", {"a": [1, 2]}, ttl=60)
    assert cache.get_cache("k") == {"a": [1, 2]}
    assert cache.batch_get_cache(["k", "nope"]) == {"k": {"a": [1, 2]}, "nope": None}
    assert cache.increment_cache("count", 2) == 2
    cache.delete_cache("k")
    assert cache.get_cache("k") is None

    async def main() -> None:
        await cache.async_set_cache("x", "y", ttl=60)
        assert await cache.async_get_cache("x") == "y"
        await cache.async_set_cache_pipeline([("p1", 1), ("p2", 2)], ttl=60)
        assert await cache.async_batch_get_cache(["p1", "p2", "p3"]) == {"p1": 1, "p2": 2, "p3": None}
        assert await cache.async_increment("f", 1.5, ttl=60) == 1.5
        assert await cache.ping()
        await cache.disconnect()

    asyncio.run(main())


def test_django_cache(node: Raw, node_port: int) -> None:
    """Django's own Redis backend, every method of it."""
    pytest.importorskip("django")
    from django.core.cache.backends.redis import RedisCache

    cache = RedisCache(f"redis://127.0.0.1:{node_port}", {})
    assert cache.add("a", {"x": 1}, 60)
    assert not cache.add("a", 2, 60)
    assert cache.get("a") == {"x": 1}
    cache.set("b", 2, None)
    assert cache.incr("b", 3) == 5
    assert cache.decr("b") == 4
    with pytest.raises(ValueError, match="not found"):
        cache.incr("nope")
    assert cache.touch("b", 100)
    assert not cache.touch("nope", 100)
    assert cache.set_many({"c": "3", "d": [4]}, 60) == []
    assert cache.get_many(["c", "d", "nope"]) == {"c": "3", "d": [4]}
    assert cache.has_key("c")
    assert cache.get_or_set("e", lambda: "made", 60) == "made"
    assert cache.delete("c")
    assert not cache.delete("c")
    cache.delete_many(["d", "e"])
    cache.set("gone", 1, 0)
    assert cache.get("gone") is None
    assert cache.get("d", "default") == "default"
    assert cache.clear()
    assert cache.get("a") is None
