"""What several folders of tests share: one small Ray cluster for all tests of a worker that need one."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# All Ray tests carry this mark too, so that one worker runs them and one Ray cluster is started.
RAY_GROUP = "ray"


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
