"""The configuration of a cluster: refused with the way out, and whole in every process."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from stratacache.cluster import ClusterConfig
from stratacache.node.errors import UsageError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "A b"}, "cluster name 'A b'"),
        ({"shards": 0}, "shards is 0"),
        ({"replicas": 4}, "from 1 to 3"),
        ({"replicas": 3, "shards": 2}, "replicas is 3 and shards 2"),
        ({"host": "10.0.0.1"}, "set a token"),
        ({"token": ""}, "the token is empty"),
        ({"data_dir": "relative"}, "absolute path"),
        ({"l1_bytes_max": 10}, "at least 1 MiB"),
        ({"l2_bytes_max": -1}, "can't be negative"),
        ({"policy": "best"}, "policy 'best' is not known"),
        ({"cpus_per_shard": -1.0}, "can't be negative"),
        ({"lease_ms": 10}, "at least 1000"),
        ({"port": 65_534}, "ports go up to 65535"),
    ],
)
def test_a_wrong_configuration_names_the_way_out(options: dict[str, Any], expected: str) -> None:
    """Refused before anything is created."""
    with pytest.raises(UsageError, match=r"^[^\n]*$") as refused:
        ClusterConfig(**options).validate()
    assert expected in str(refused.value)


def test_a_configuration_crosses_processes() -> None:
    """It travels to the actors as it is."""
    config = ClusterConfig(name="x", shards=5, token="t")
    assert pickle.loads(pickle.dumps(config)) == config
    assert ClusterConfig(**config.to_map()) == config
    assert config.shard_ids()[4] == "shard-4"
