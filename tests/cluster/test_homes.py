"""A shard's home: one process at a time has it, and what is kept there is whole or nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stratacache.cluster import messages as m
from stratacache.cluster.home import ShardHome, private_dir, runtime_dir
from stratacache.node.errors import UsageError
from tests.cluster.homes import home_in


@pytest.fixture(autouse=True)
def no_sockets_left() -> Any:
    """Remove the directory for sockets that homes make."""
    yield
    path = runtime_dir(f"test-{os.getpid()}")
    if path.exists():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def test_a_home_is_private_and_has_one_process(tmp_path: Path) -> None:
    """A second one is refused with the holder's process id; after close it may enter, with the same fence."""

    async def run() -> None:
        first, second = home_in(tmp_path), home_in(tmp_path)
        await first.open(0.1)
        assert first.path is not None
        assert first.path.stat().st_mode & 0o777 == 0o700
        with pytest.raises(UsageError, match=f"is in use by process {os.getpid()}: stop the cluster"):
            await second.open(0.1)
        first.close()
        await second.open(0.1)
        assert second.fence == first.fence != ""
        second.close()
        assert not second.sockets.exists()

    asyncio.run(run())


@pytest.mark.parametrize("has_disk", [True, False])
def test_who_waited_for_a_home_has_it_alone_and_whole(tmp_path: Path, has_disk: bool) -> None:
    """Who closes takes lock and directory for sockets away: the one that waited makes them anew, for others to find."""

    def home() -> ShardHome:
        if has_disk:
            return home_in(tmp_path)
        return ShardHome(data_dir=None, cluster="c", uid=f"test-{os.getpid()}", shard="shard-0")

    async def run() -> None:
        first, second = home(), home()
        await first.open(0.1)
        waiting = asyncio.ensure_future(second.open(10))
        while second._fd < 0:
            await asyncio.sleep(0)
        first.close()
        await waiting
        second.unix.touch()
        with pytest.raises(UsageError, match="is in use by process"):
            await home().open(0.1)
        second.close()

    asyncio.run(run())


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    """The kernel gives it back when the process is gone, and not before: that is the proof that fencing rests on."""
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.cluster.homes import home_in
from pathlib import Path
home = home_in(Path({str(tmp_path)!r}))
asyncio.run(home.open(1))
print("locked", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(UsageError):
        asyncio.run(home_in(tmp_path).open(0.1))
    holder.kill()
    holder.wait()
    holder.stdout.close()
    home = home_in(tmp_path)
    asyncio.run(home.open(1.0))
    home.close()


def test_state_is_replaced_whole_and_garbage_counts_as_none(tmp_path: Path) -> None:
    """A state that can't be read proves nothing, so it is as if there were none."""
    home = home_in(tmp_path)
    asyncio.run(home.open(0.1))
    assert home.read_state() is None
    state = m.Stored(uid="life", incarnation=1, epoch=7, ring="r", clean=False, pinned=False)
    home.write_state(state)
    home.mark_clean()
    assert home.read_state() == replace(state, clean=True)
    assert home.path is not None
    (home.path / "state.json").write_text('{"uid": "life"')
    assert home.read_state() is None
    home.close()


def test_a_state_that_cannot_be_written_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk the state before would stand, and vouch for content that has changed since."""
    home = home_in(tmp_path)
    state = m.Stored(uid="u", incarnation=1, epoch=3, ring="r", clean=False, pinned=True)
    asyncio.run(home.open(1.0))
    assert home.path is not None
    home.write_state(state)
    (home.path / ".state.json").symlink_to("/dev/full")
    home.write_state(replace(state, epoch=4))
    assert home.read_state() is None
    assert "No space left on device" in caplog.text
    (home.path / ".state.json").unlink()
    home.write_state(replace(state, epoch=5))
    assert home.read_state() == replace(state, epoch=5)
    home.close()


def test_a_socket_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """/tmp is everybody's: a link put there before us must not be followed."""
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UsageError, match="is not a directory of this user"):
        private_dir(tmp_path / "link")
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o755)
    assert private_dir(wide).stat().st_mode & 0o777 == 0o700
