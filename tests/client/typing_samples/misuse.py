"""Wrong use of the client: mypy must find an error in every marked line."""

from __future__ import annotations

from stratacache.client import Fill, cached, connect, connect_async

cache = connect("local:./cache")
cache.get(5)  # wrong: a key is str or bytes
cache.put("k")  # wrong: no value
cache.put("k", 1, ttl="1h")  # wrong: a ttl is a timedelta, seconds or None
cache.put("k", 1, tags=[1])  # wrong: tags are strings
cache.put("k", 1, time_to_live=5)  # wrong: no such option
number: int = cache.get_or_compute("k", lambda: "text")  # wrong: the type of compute's result
cache.get_or_compute("k", 5)  # wrong: not a function
inside: str = cache.get_or_compute("k", lambda: Fill(value=1))  # wrong: an int is inside
cache.get_or_compute_many(["k"], lambda: [1])  # wrong: takes the missing keys
cache.put_many([("k", 1)])  # wrong: a mapping
cache.invalidate_tags(5)  # wrong: tags are iterable
connect(5)  # wrong: an address is text
text: str = cache.ping()  # wrong: seconds by shard


async def main() -> None:
    """Forgetting await."""
    client = connect_async("local:./cache")
    stored: bool = client.put("k", 1)  # wrong: a coroutine
    assert stored


@cached(version="1")
def embed(text: str) -> list[float]:
    """Decorated functions keep their types."""
    return [float(len(text))]


@cached()
async def summarise(text: str) -> str:
    """So do async ones."""
    return text


embed(5)  # wrong: the function takes text
embed.key_for()  # wrong: the text is missing
embed.invalidate("a", model="m")  # wrong: no such parameter
vector: str = embed("a")  # wrong: what the function returns
summary: str = summarise("a")  # wrong: a coroutine
cached(ttl="1h")  # wrong: a ttl is a timedelta, seconds or None
cached(tag=["a"])  # wrong: no such option
