"""A machine that sleeps and wakes up believes nothing that ended meanwhile: TTLs, leases, near caches."""

from __future__ import annotations

import sys
import time

import pytest

from stratacache.node import elapsed
from tests.client.servers import running
from tests.sleeper import CLOCK, believed

counts_sleep = pytest.mark.skipif(not hasattr(time, CLOCK), reason="the system tells nobody how long it slept")


@counts_sleep
def test_what_ended_while_the_machine_slept_has_ended() -> None:
    """Each is believed before an hour's sleep and not after it, although the monotonic clock stood still."""
    assert believed("parts") == {
        "ttl": [True, False],
        "serving": [True, False],
        "granting": [True, False],
        "near": [True, False, False],
    }


@counts_sleep
def test_clients_listen_by_the_clock_that_counts_sleep() -> None:
    """On a machine that has slept before, near caches of both shells believe what they hear, until it sleeps again."""
    with running(1) as (node,):
        assert believed("clients", f"strata://{node.place}") == [[True, False], [True, False]]


def test_the_clock_that_counts_sleep_is_known_by_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux and macOS name it differently; where there is none, or it can't be read, there is no id."""
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "CLOCK_MONOTONIC", 1, raising=False)
    monkeypatch.setattr(time, "clock_gettime", float)
    for system, found in {"linux": 7, "darwin": 1, "win32": None}.items():
        monkeypatch.setattr(sys, "platform", system)
        assert elapsed.sleepless_clock() == found

    def refuse(which: int) -> float:
        raise OSError(which)

    monkeypatch.setattr(time, "clock_gettime", refuse)
    monkeypatch.setattr(sys, "platform", "linux")
    assert elapsed.sleepless_clock() is None
