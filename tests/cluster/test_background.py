"""What fails in the background of the cluster's processes is seen, and what must not fail ends them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import cast

import pytest

from stratacache.cluster import controller as c
from stratacache.cluster.config import ClusterConfig
from stratacache.cluster.controller_shell import ControllerShell
from stratacache.cluster.coordinator_actor import CoordinatorActor
from stratacache.node.errors import UnavailableError

IN_THE_BACKGROUND = """
import asyncio, sys
from stratacache.cluster.background import Background, end_loudly

async def fails():
    raise KeyError("poison")

async def main(how):
    background = Background(lambda why, error: end_loudly("shard-7", why, error))
    if how == "called":
        def call():
            with background.must_not_fail("an answer"):
                raise KeyError("poison")
        asyncio.get_running_loop().call_soon(call)
        task = asyncio.get_running_loop().create_future()
    else:
        task = getattr(background, how)(fails())
    done, _ = await asyncio.wait((task,), timeout=20)
    await asyncio.sleep(0)
    print("lives on")

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(("how", "ends"), [("spawn", False), ("keep", True), ("called", True)])
def test_what_fails_is_logged_and_what_must_not_fail_ends_the_process(how: str, ends: bool) -> None:
    """With its traceback in either case, and the name of what failed."""
    command = [sys.executable, "-c", IN_THE_BACKGROUND, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == ends, done.stderr
    assert ("lives on" in done.stdout) is not ends
    assert ("shard-7 ends: " in done.stderr) is ends
    assert "KeyError: 'poison'" in done.stderr
    assert {"spawn": "fails failed", "keep": "fails failed", "called": "an answer failed"}[how] in done.stderr


def test_a_controller_whose_second_thread_fails_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not go on answering that it is alive while nobody asks the shards."""
    monkeypatch.setattr(c, "LOOK_EVERY_MS", 1)
    shell = ControllerShell(ClusterConfig(token="t"), "ray://127.0.0.1:1", http_host="127.0.0.1", http_port=0)
    monkeypatch.setattr(shell, "_disconnect", lambda: None)
    monkeypatch.setattr(shell, "_turn", lambda: None)
    monkeypatch.setattr(shell.core, "running", SimpleNamespace(endpoints={}))
    monkeypatch.setattr(shell.core, "handle", lambda event, _: {}[type(event).__name__])
    failed: list[BaseException] = []

    def run() -> None:
        try:
            shell.run()
        except KeyError as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert [str(error) for error in failed] == ["'Answered'"]


def test_a_drain_that_is_not_over_does_not_say_that_it_is() -> None:
    """Who ends the node next has to know: what is not on disk by then is lost."""
    member = SimpleNamespace(id="shard-0", home="node-1", started=object())

    async def main(closes: bool) -> list[str]:
        closing: set[asyncio.Task[None]] = set()

        async def close() -> None:
            if not closes:
                await asyncio.Event().wait()

        actor = SimpleNamespace(
            core=SimpleNamespace(members={"shard-0": member}),
            _closing=closing,
            _effects=asyncio.Queue(),
            _hear=lambda _: closing.add(asyncio.ensure_future(close())),
        )
        return await CoordinatorActor.drain(cast("CoordinatorActor", actor), "node-1", 0.01 if not closes else 20.0)

    assert asyncio.run(main(True)) == ["shard-0"]
    with pytest.raises(UnavailableError, match=r"1 of shard-0 did not close within 0\.01 s"):
        asyncio.run(main(False))
