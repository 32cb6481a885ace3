"""The coordinator's side of prefetching with stand-ins for what Ray runs: what fails stays small."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.prefetch.slices import changed
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.intelligence.accounting import Issued, Kind
from stratacache.cluster.intelligence.plan import Refresh
from stratacache.cluster.intelligence_shell import IntelligenceShell
from stratacache.cluster.loaders import FAILED, REFRESHED, Loader, Refreshed
from stratacache.cluster.registry import Registry
from stratacache.node.patterns import AccessPatterns


class Remote:
    """A method of an actor."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self._answer = answer

    async def remote(self, *_: object) -> bytes:
        return self._answer()


class Shard:
    """A shard's actor that tells these patterns, in the same bytes each time."""

    def __init__(self, blob: bytes) -> None:
        self.patterns = Remote(lambda: blob)


class Kept:
    """The control service, which fails at first."""

    def __init__(self, *loaders: bytes) -> None:
        self.asked = 0
        self._loaders = loaders

    def loaders(self) -> list[bytes]:
        self.asked += 1
        if self.asked == 1:
            raise ConnectionError("the control service starts again")
        return list(self._loaders)


def shell(shards: Mapping[tuple[str, int], Any] | None = None, registry: object = None) -> IntelligenceShell:
    """One that asks for patterns as often as can be."""
    config = ClusterConfig(patterns_every_ms=100)
    return IntelligenceShell(config, cast("Registry", registry), lambda: shards or {}, dict, asyncio.ensure_future)


def test_a_refresh_whose_loader_is_not_known_gives_its_budget_back() -> None:
    """Its task, its seconds, and the keys that it was to compute."""
    made = shell()
    planner, account = made.planner, made.planner.accounts[Kind.REFRESH]
    limits = planner.settings.limits
    for _ in range(3 * limits.tasks_max):
        planner.budget.pass_to(10_000.0 * (1 + account.failed))
        assert planner.budget.may_compute(limits.floor_s, "fn:gone")
        account.was_issued(b"k", Issued(at_s=0, until_s=100, cost_s=limits.floor_s, size=1, saves_s=1))
        asyncio.run(made._refresh(Refresh("fn:gone", (b"k",))))
        assert planner.budget.places.held == 0
        assert not account.out
    assert account.failed == 3 * limits.tasks_max


class Task:
    """A remote function of Ray, whose tasks end with `found`, or never."""

    def __init__(self, found: object = None) -> None:
        self._found = found

    def options(self, **_: object) -> Task:
        return self

    def remote(self, *_: object) -> object:
        future = asyncio.get_running_loop().create_future()
        if self._found is not None:
            future.set_result(self._found)
        return future


def test_a_task_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place in the budget is given to another one: else more would run at once than the budget says."""
    cancelled: list[object] = []

    def cancel(reference: object, *, force: bool) -> None:
        assert force
        cancelled.append(reference)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(remote=lambda _: Task(), cancel=cancel))
    made = shell()
    made._enter(Loader(name="fn:slow", blob=b""))
    assert made.planner.budget.may_compute(1.0, "fn:slow")
    asyncio.run(made._refresh(Refresh("fn:slow", (b"k",), deadline_s=0.01)))
    assert len(cancelled) == 1
    assert made.planner.budget.places.held == 0


@pytest.mark.parametrize(("outcomes", "rests"), [((FAILED, FAILED), True), ((FAILED, REFRESHED), False)])
def test_a_loader_of_which_nothing_comes_rests(
    monkeypatch: pytest.MonkeyPatch, outcomes: tuple[str, str], rests: bool
) -> None:
    """Its task ended in order, and everything in it failed: it is not begun again at once."""
    found = [Refreshed(b"%d" % number, outcome, 0.1, 1000.0) for number, outcome in enumerate(outcomes)]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(remote=lambda _: Task(found)))
    made = shell()
    made._enter(Loader(name="fn:odd", blob=b""))
    made.planner.budget.pass_to(1000.0)
    assert made.planner.budget.may_compute(1.0, "fn:odd")
    asyncio.run(made._refresh(Refresh("fn:odd", (b"0", b"1"))))
    assert made.planner.budget.is_stuck("fn:odd") == rests


@pytest.mark.parametrize(("off_s", "late"), [(0.0, False), (3600.0, True), (-3600.0, False)])
def test_a_value_counts_as_used_that_was_read_before_its_task_was_over(
    monkeypatch: pytest.MonkeyPatch, off_s: float, *, late: bool
) -> None:
    """It was stored at once, and its task went on for others. A clock that is off is believed within bounds."""
    made = shell()
    made._enter(Loader(name="fn:batch", blob=b""))
    planner, account = made.planner, made.planner.accounts[Kind.REFRESH]
    now = [1_000_000.0]
    monkeypatch.setattr(made, "_now_s", lambda: now[0])
    patterns: AccessPatterns[bytes] = AccessPatterns()

    class Long(Task):
        """A task whose first value is stored after a second and read after two, and which ends after nine."""

        def remote(self, *_: object) -> object:
            stored_s = now[0] + 1
            patterns.note(b"k", int(now[0]) + 2)
            now[0] += 3
            planner.take(changed("shard-0/1", patterns), now[0])
            now[0] += 6
            self._found = [Refreshed(b"k", REFRESHED, 0.5, stored_s + off_s)]
            return super().remote()

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(remote=lambda _: Long()))
    issued = Issued(at_s=now[0], until_s=now[0] + 100, cost_s=1, size=1, saves_s=1)
    account.was_issued(b"k", issued)
    asyncio.run(made._refresh(Refresh("fn:batch", (b"k",))))
    assert (account.used, account.late) == ((0, 1) if late else (1, 0))
    assert not account.out


def test_a_shard_whose_patterns_can_not_be_read_does_not_keep_the_others_from_being_heard() -> None:
    """Another version, or half a message: it is left out."""
    patterns: AccessPatterns[bytes] = AccessPatterns()
    patterns.note(b"key", 1_700_000_000)
    good = changed("shard-1/1", patterns)
    odd = changed("shard-2/1", patterns)
    patterns.note(b"key", 1_700_000_001)
    odd = changed("shard-2/1", patterns)
    object.__setattr__(odd, "loaders", np.zeros(7, np.int16))
    blobs = [b"\xc1", odd.to_bytes(), good.to_bytes()]
    made = shell({(f"shard-{number}", 1): Shard(blob) for number, blob in enumerate(blobs)})
    asyncio.run(made._pull())
    assert made.planner.table.row_of(b"key") is not None


def test_loaders_that_were_kept_are_there_when_the_control_service_is_back() -> None:
    """Also when one of them can not be read. What was announced since is newer than what was kept."""
    kept = [Loader(name=name, blob=b"kept") for name in ("fn:a", "fn:b")]
    registry = Kept(kept[0].to_bytes(), b"\xc1", kept[1].to_bytes())
    made = shell(registry=registry)
    made._enter(Loader(name="fn:b", blob=b"anew"))

    async def main() -> None:
        running = asyncio.ensure_future(made.run())
        while "fn:a" not in made.report()["loaders"]:
            await asyncio.sleep(0.005)
        running.cancel()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert made.report()["loaders"] == ["fn:a", "fn:b"]
    assert made._loaders["fn:b"].blob == b"anew"
