"""What `up` remembers for `down`, `status`, `get` and `put`: one small file for each cluster of this user.

Invariants: the file is private (it holds the token) and is replaced whole; it exists from before anything is started
until everything has been ended, so that nothing started can be forgotten.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stratacache.cluster.home import private_dir
from stratacache.node.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class RayHead:
    """A local Ray that `up` started: the leader of its own session, so that exactly its processes can be ended."""

    pid: int
    started: str
    address: str
    log: str


@dataclass(frozen=True, kw_only=True)
class ClusterState:
    """A cluster that `up` made: how to reach it, and what has to be ended with it."""

    name: str
    ray_address: str = ""
    head: RayHead | None = None
    token: str | None = None
    endpoints: dict[str, str] = field(default_factory=dict)
    tls_ca: str = ""
    tls_name: str = ""


def state_dir() -> Path:
    """$XDG_STATE_HOME/stratacache, or ~/.local/state/stratacache; raises UsageError when it can't be had."""
    base = os.environ.get("XDG_STATE_HOME")
    root = Path(base) if base else Path.home() / ".local" / "state"
    try:
        return private_dir(root / "stratacache")
    except OSError as error:
        raise UsageError(
            f"can't use {root / 'stratacache'}: {error.strerror}; set XDG_STATE_HOME to a directory of yours"
        ) from error


def load_state(name: str) -> ClusterState | None:
    """What is remembered of a cluster; None when there is nothing that can be read."""
    try:
        fields = json.loads((state_dir() / f"{name}.json").read_text())
        head = fields.pop("head", None)
        return ClusterState(head=RayHead(**head) if head else None, **fields)
    except (OSError, UsageError, ValueError, TypeError, AttributeError):
        return None


def save_state(state: ClusterState) -> None:
    """Remember a cluster, replacing what was remembered under its name."""
    path = state_dir() / f"{state.name}.json"
    fresh = path.with_suffix(".tmp")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(state), file, indent=1)
    fresh.replace(path)


def forget_state(name: str) -> None:
    """Forget a cluster that has ended."""
    with suppress(UsageError):  # where nothing can be remembered, nothing is
        (state_dir() / f"{name}.json").unlink(missing_ok=True)


def known_states() -> list[ClusterState]:
    """Every cluster that is remembered."""
    try:
        names = sorted(path.stem for path in state_dir().glob("*.json"))
    except UsageError:
        return []
    states = map(load_state, names)
    return [state for state in states if state is not None]
