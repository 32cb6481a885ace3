"""What several folders of tests share: one small Ray cluster for all tests of a worker that need one."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Refuse to test what was compiled of another state of the sources, for this Python.

    And let Ctrl-C be heard: what a shell starts in the background ignores it, and so would all processes of the tests.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    node = Path(__file__).parents[1] / "node"
    for compiled in node.rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
        source = compiled.with_name(compiled.name.partition(".")[0] + ".py")
        if source.exists() and source.stat().st_mtime > compiled.stat().st_mtime:
            pytest.exit(f"{source.relative_to(node.parent)} is newer than what was compiled of it: run `make setup`", 4)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of one xdist_group on one worker.

    "ray" are the tests that share `ray_session`; "own-ray" those whose processes start a Ray of their own, which wait
    more than they compute. The two groups begin first, side by side: what else there is fills the gap behind them.

    xdist 3.8 names a test's group in `item._nodeid`, which pytest 9.2 no longer reads; older ones need nothing of this.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    try:
        from _pytest.nodeid import NodeId
    except ImportError:
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and not item.nodeid.endswith(f"@{mark.args[0]}"):
            item._id = NodeId.parse(f"{item.nodeid}@{mark.args[0]}")


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A private directory with a short path: the paths of Unix sockets have at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="sct-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def own_ray() -> Iterator[dict[str, str]]:
    """The environment of a process that starts a Ray of its own: nobody else's is seen, and nothing is left in /tmp."""
    with tempfile.TemporaryDirectory(prefix="scr-", dir="/tmp") as home:
        private = dict.fromkeys(("HOME", "TMPDIR", "RAY_TMPDIR"), home)
        yield {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | private


@pytest.fixture(scope="session")
def ray_session(short_dir: Path) -> Iterator[str]:
    """A local Ray cluster of this test run alone; gives its address. Nothing else on the machine finds it."""
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", str(short_dir))
        environment.delenv("RAY_ADDRESS", raising=False)
        with pytest.MonkeyPatch.context() as while_it_starts:
            while_it_starts.setenv("TMPDIR", str(short_dir))  # what its processes leave behind goes with the directory
            context = ray.init(
                num_cpus=4,
                include_dashboard=False,
                object_store_memory=80_000_000,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        yield context.address_info["gcs_address"]
        ray.shutdown()
