"""How often the shards are asked: a hit costs one round trip, a miss one more for its put, and no other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
from hiredis import pack_command

from stratacache.client import connect
from stratacache.client.core.effects import Exchange
from stratacache.node.config import NodeConfig

from .near import near_of, warm
from .servers import address, running, wait_until

LEASES_MAX = NodeConfig().leases_max
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
    assert trips.taken() == [[b"SC.LEASE" + mark], [b"SC.MPUT"]]
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


def test_no_lease_to_be_had_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with as many leases as it may have says so at once: the caller computes, and does not go on asking."""
    with (
        running(1) as nodes,
        connect(address(nodes), shared=False, strict=True, lease_wait_s=20.0) as cache,
        socket.create_connection(("127.0.0.1", nodes[0].port)) as other,
    ):
        reader, granted = hiredis.Reader(), 0
        for first in range(0, LEASES_MAX, 4096):
            keys = [b"k%d" % number for number in range(first, first + 4096)]
            other.sendall(pack_command((b"SC.MLEASE", b"60000", *keys)))
            while (reply := reader.gets()) is False:
                reader.feed(other.recv(1 << 16))
            granted += sum(word == b"LEASE" for word, *_ in reply)
        assert granted == LEASES_MAX
        trips = Trips(cache, monkeypatch)
        assert cache.get_or_compute("one more", lambda: 1) == 1
        assert trips.taken() == [[b"SC.LEASE"], [b"SC.LEASE"]]


def owner(cache: Any, key: str) -> str:
    return str(cache._core.ring.primary(key.encode()).id)
