"""Runs one node in this process: what `stratacache node` and `python -m stratacache.node` do.

Invariant: SIGTERM and SIGINT stop accepting, answer what was received, flush the disk, and end the process within
`stop_s`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from stratacache.node.config import NodeConfig
from stratacache.node.engine import MultiLevelCache
from stratacache.node.pages import PageServer
from stratacache.node.resp.config import ServerConfig
from stratacache.node.resp.server import Endpoints, NodeServer
from stratacache.node.tuning import allow_connections, tune_process

log = logging.getLogger(__name__)


def run_node(
    node: NodeConfig,
    server: ServerConfig,
    *,
    stop_s: float = 10.0,
    on_start: Callable[[Endpoints, str], None] | None = None,
    metrics: tuple[str, int] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises UsageError for a bad configuration, OSError when it can't listen.

    `metrics` is the host and port of the page for Prometheus; `on_start` is told where it is, "" for nowhere.
    """
    server.validate()
    node.validate()
    try:
        import uvloop  # noqa: PLC0415

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    tune_process()
    allow_connections(server.connections_max)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(node, server, stop_s, on_start, metrics))


async def _serve(
    node: NodeConfig,
    config: ServerConfig,
    stop_s: float,
    on_start: Callable[[Endpoints, str], None] | None,
    metrics: tuple[str, int] | None,
) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    engine = MultiLevelCache(node, post=loop.call_soon_threadsafe)
    until = loop.time() + stop_s
    try:
        serving = NodeServer(engine, config)
        endpoints = await serving.start()
        log.info("serving on %s:%d %s", endpoints.host, endpoints.port, endpoints.unix)
        pages = await asyncio.to_thread(_serve_metrics, serving, metrics)
        if on_start is not None:
            on_start(endpoints, pages.address if pages is not None else "")
        await stopping.wait()
        until = loop.time() + stop_s
        log.info("stopping")
        if pages is not None:
            await asyncio.to_thread(pages.close)
        await serving.stop(stop_s * 0.5)
    finally:
        engine.close(max(0.1, until - loop.time()))


def _serve_metrics(server: NodeServer, metrics: tuple[str, int] | None) -> PageServer | None:
    if metrics is None:
        return None
    from stratacache.node.metrics import NodeCollector, metrics_page  # noqa: PLC0415 - 60 ms that most nodes save

    return PageServer(*metrics, {"/metrics": metrics_page(NodeCollector(server))})
