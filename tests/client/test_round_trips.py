"""How often the shards are asked: a hit costs one round trip, a miss one more for its put, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stratacache.client.core.effects import Exchange

from .servers import wait_until
from .test_near import near_of, warm

BACKGROUND = {b"SC.TOUCHED", b"SC.VIEW", b"SC.STATS"}


class Trips:
    """Writes down the names of the commands of each exchange of a blocking client."""

    def __init__(self, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[list[bytes]] = []
        shell = cache._backend.shell
        exchange = shell.exchange

        def noting(wanted: Exchange) -> Any:
            names = [command[0] for call in wanted.calls for command in call.commands]
            if not BACKGROUND & set(names):
                self.names.append(names)
            return exchange(wanted)

        monkeypatch.setattr(shell, "exchange", noting)

    def taken(self) -> list[list[bytes]]:
        names, self.names = self.names, []
        return names


@pytest.mark.parametrize("setup", ["one", "near"])
def test_a_hit_is_one_round_trip_and_a_miss_two(
    open_cache: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, setup: str
) -> None:
    """get_or_compute asks for the value and for the lease at once, for one key and for many, near cache or not."""
    writer = open_cache(setup, near_bytes_max=0)
    cache = open_cache(setup)
    mark = b""
    if setup == "near":
        warm(cache)
        mark = b"X"
    trips = Trips(cache, monkeypatch)
    assert cache.get_or_compute("k", lambda: [1]) == [1]
    assert trips.taken() == [[b"SC.LEASE" + mark], [b"SC.PUT"]]
    writer.put("k", [2])
    wait_until(lambda: cache.get_or_compute("k", lambda: [0]) == [2], what="the other's put")
    trips.taken()
    if setup == "near":
        assert len(near_of(cache).entries) == 1, "what the lease brought was kept"
        assert cache.get_or_compute("k", lambda: [0]) == [2]
        assert trips.taken() == []
    else:
        assert cache.get_or_compute("k", lambda: [0]) == [2]
        assert trips.taken() == [[b"SC.LEASE"]]
    one_owner = [key for key in (f"m{n}" for n in range(30)) if cache.view.shards[0].id == owner(cache, key)][:4]
    assert cache.get_or_compute_many(one_owner, lambda keys: keys) == {key: key for key in one_owner}
    assert trips.taken() == [[b"SC.MLEASE" + mark], [b"SC.MPUT"]]
    counted = cache.stats()["client"]
    assert counted["misses"] == 5 + (setup == "near"), "a miss is counted once (and the one that warmed up)"
    assert cache.get_or_compute_many(one_owner, lambda keys: []) == {key: key for key in one_owner}
    assert trips.taken() == [[b"SC.MLEASE" + mark]]


def owner(cache: Any, key: str) -> str:
    return str(cache._core.ring.primary(key.encode()).id)
