"""What a client does in the background: when it fails it is logged, and what goes on for ever goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stratacache.client import connect
from stratacache.client.core.effects import Operation, Sleep, Spawn
from stratacache.client.options import ClientOptions
from stratacache.client.transport.engine_node import EngineNode

from .conftest import InLoop
from .servers import Node, address, wait_until


@pytest.mark.parametrize("shell", ["sync", "async"])
def test_a_background_operation_that_fails_is_logged(
    nodes: list[Node], shell: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it, so nobody else would tell."""

    def fails() -> Operation[None]:
        yield Sleep(0)
        raise ZeroDivisionError("a bug")

    def begins() -> Operation[None]:
        yield Spawn(fails())

    cache = connect(address(nodes), shared=False) if shell == "sync" else InLoop(address(nodes), shared=False)
    try:
        cache.ping()
        if shell == "sync":
            cache._run(begins())
        else:
            cache.run(_run_async(cache.client, begins()))
        wait_until(lambda: "ZeroDivisionError: a bug" in caplog.text)
    finally:
        cache.close()


async def _run_async(client: Any, operation: Operation[None]) -> None:
    backend, _ = await client._here()
    await backend.shell.run(operation)


def test_ticks_of_a_local_cache_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that raised is logged; the next one comes."""
    node = EngineNode(str(tmp_path), ClientOptions(address=f"local:{tmp_path}"))
    engine, ticks = node.engine, [0]

    class Failing:
        def tick(self) -> None:
            ticks[0] += 1
            raise ZeroDivisionError("a bug")

    node.engine = Failing()  # type: ignore[assignment]
    try:
        wait_until(lambda: ticks[0] >= 2)
        assert "ZeroDivisionError: a bug" in caplog.text
    finally:
        node.engine = engine
        node.close()
