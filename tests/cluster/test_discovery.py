"""How clients inside Ray find the coordinator."""

from __future__ import annotations

import pytest

from stratacache.cluster.discovery import find_coordinator
from stratacache.node.errors import UnavailableError


@pytest.mark.parametrize("name", ["default", None])
@pytest.mark.parametrize("error", ["RpcError", "GetTimeoutError", "RaySystemError"])
def test_a_ray_that_can_not_be_asked_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, name: str | None, error: str
) -> None:
    """Whatever it raises then: a client that looks for a view counts on that, and so does who calls the client."""
    import ray
    from ray import exceptions

    def fails(*_: object, **__: object) -> None:
        raise getattr(exceptions, error)("the control service is away")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_actor", fails)
    monkeypatch.setattr(ray.util, "list_named_actors", fails)
    with pytest.raises(UnavailableError, match=rf"can't be asked \({error}\): try again, or connect by address"):
        find_coordinator(name)
