"""Links between shards: who is not the shard of the view, or does not take the connection, is told apart."""

from __future__ import annotations

import asyncio

import pytest

from stratacache.client.view import ShardInfo
from stratacache.cluster.links import Credentials, Link
from stratacache.node.errors import UnavailableError
from tests.client.servers import running


def test_a_connection_that_is_not_taken_says_why() -> None:
    """A wrong token, and a process that is no shard of the view."""
    with running(1, "--token", "right") as (node,):
        shard = ShardInfo(id="shard-0", host="127.0.0.1", port=node.port, incarnation="1")
        with pytest.raises(UnavailableError, match=rf"shard-0 at 127.0.0.1:{node.port} does not take .*: NOAUTH"):
            asyncio.run(Link.open(shard, Credentials(token="wrong")))
        with pytest.raises(UnavailableError, match=r"is no longer shard-0 of this view"):
            asyncio.run(Link.open(shard, Credentials(token="right")))
