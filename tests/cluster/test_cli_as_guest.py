"""The command line in a Ray that others have started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.shell import private_shell


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_somebody_elses_ray_is_left_alone(ray_session: str) -> None:
    """`up` joins the Ray at RAY_ADDRESS, and `down` ends only the cache in it."""
    import ray

    auth = Path("~/.ray/auth_token").expanduser()
    extra = {"RAY_ADDRESS": ray_session, "RAY_AUTH_TOKEN_PATH": str(auth)}
    if auth.exists():
        extra["RAY_AUTH_MODE"] = "token"
    with private_shell(extra) as joined:
        printed = json.loads(joined.ok("up", "--name", "guest", "--shards", "2", "--l1-bytes", "16MiB", "--json"))
        assert printed["ray_started"] is False
        assert joined.ok("down", "--name", "guest") == "cache guest: ended\n"
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 4
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    assert not [name for name in names if name.startswith("guest/")]
