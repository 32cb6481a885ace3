"""What several folders of tests share: one small Ray cluster for all tests of a worker that need one."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Refuse to test what was compiled of another state of the sources."""
    node = Path(__file__).parents[1] / "node"
    for compiled in node.rglob("*.so"):
        source = compiled.with_name(compiled.name.partition(".")[0] + ".py")
        if source.exists() and source.stat().st_mtime > compiled.stat().st_mtime:
            pytest.exit(f"{source.relative_to(node.parent)} is newer than what was compiled of it: run `make setup`", 4)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of one xdist_group on one worker: two Ray clusters at a time are more than two cores carry.

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


@pytest.fixture(scope="session")
def ray_session(short_dir: Path) -> Iterator[str]:
    """A local Ray cluster of this test run alone; gives its address. Nothing else on the machine finds it."""
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    saved = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "RAY_ADDRESS")}
    os.environ["RAY_TMPDIR"] = str(short_dir)
    os.environ.pop("RAY_ADDRESS", None)
    context = ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=80_000_000,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()
    for name, value in saved.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
