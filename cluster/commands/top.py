"""`stratacache top`: the cache in a live view."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from stratacache.cluster.commands.options import (
    Seconds,
    cache_options,
    json_option,
    open_cache,
    print_json,
    require_rich,
)
from stratacache.cluster.figures import picture

if TYPE_CHECKING:
    from types import FrameType

    from stratacache.client import CacheClient


@click.command("top")
@cache_options
@click.option("--interval", "interval_s", type=Seconds(0.2), default=2.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Show one picture and end.")
@json_option
def command(
    *, address: str | None, name: str | None, token: str | None, interval_s: float, once: bool, as_json: bool
) -> None:
    """Watch shards, their share of the ring, hit ratios, bytes by level, hot keys and what hits saved. Ctrl-C ends it.

    --json prints one picture, after one interval so that there are rates; with --once at once, without rates.
    """
    with _interrupts() as interrupts:
        cache = open_cache(address, name, token, strict=False)
        try:
            if as_json:
                print_json(_rated(cache, None if once else interval_s))
            else:
                require_rich()
                _show(cache, interval_s, once, interrupts)
        except KeyboardInterrupt:
            return
        finally:
            cache.close()


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Fills with the interrupts of this process, each of which raises KeyboardInterrupt as ever.

    The exception is lost where it meets a finaliser, or a callback of an import: who goes on for ever looks here too.
    A plain list, since the handler runs in the midst of whatever the main thread does, and may wait for no lock.
    """
    interrupts: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, _: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    if before is signal.default_int_handler:  # else it is ignored, or somebody else's
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


def _rated(cache: CacheClient, interval_s: float | None) -> dict[str, Any]:
    first = picture(cache.view, cache.stats())
    if interval_s is None:
        return first
    begun = time.monotonic()
    time.sleep(interval_s)
    stats = cache.stats()
    return picture(cache.view, stats, first, time.monotonic() - begun)


def _show(cache: CacheClient, interval_s: float, once: bool, interrupts: list[int]) -> None:
    from rich.console import Console
    from rich.live import Live

    from stratacache.cluster.screen import drawn

    console = Console()
    taken_s = time.monotonic()
    current = picture(cache.view, cache.stats())
    if once:
        console.print(drawn(current))
        return
    with Live(drawn(current), console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while not interrupts:
            time.sleep(interval_s)
            stats, now_s = cache.stats(), time.monotonic()
            current, taken_s = picture(cache.view, stats, current, now_s - taken_s), now_s
            live.update(drawn(current), refresh=True)
