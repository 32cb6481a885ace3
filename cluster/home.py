"""Where a shard process lives on its machine: its L3's directory, its Unix socket, and the lock that it holds for life.

Invariants: one process at a time per home (the kernel gives the lock back when, and only when, the process is gone:
that makes it a proof); directories are 0700 and ours; the state file is replaced whole, never half-written.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from stratacache.cluster.messages import Stored
from stratacache.node.errors import UsageError

SOCKET_PATH_MAX: Final = 107
_LOCK_POLL_S: Final = 0.05

log = logging.getLogger(__name__)


def runtime_dir(uid: str) -> Path:
    """Where a cluster's sockets lie on this machine: short, since a socket's path has at most 107 bytes."""
    return Path("/tmp") / f"stratacache-{os.getuid()}" / uid  # noqa: S108 - checked by private_dir


def private_dir(path: Path) -> Path:
    """Make a directory that only this user can enter; refuses one that belongs to somebody else."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.getuid():
        raise UsageError(f"{path} is not a directory of this user: remove it, or run as its owner")
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


class ShardHome:
    """One shard's place on this machine. `open` it first; it stays locked until the process ends or `close`."""

    def __init__(self, *, data_dir: str | None, cluster: str, uid: str, shard: str) -> None:
        self.sockets = runtime_dir(uid)
        self.path = Path(data_dir) / cluster / shard if data_dir is not None else None
        self.unix = self.sockets / f"{shard}.sock"
        self.fence = ""
        self._lock_path = self.sockets / f"{shard}.lock" if self.path is None else self.path / "lock"
        self._fd = -1

    @property
    def l3(self) -> Path | None:
        """The directory of the L3, None without one."""
        return None if self.path is None else self.path / "l3"

    async def open(self, wait_s: float) -> None:
        """Take the lock, waiting `wait_s` for a process that is just ending; raises UsageError when it is held."""
        self._open_lock()
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while not self._try_lock():
            if loop.time() >= until:
                holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(self._fd)
                self._fd = -1
                raise UsageError(
                    f"{self._lock_path.parent} is in use by process {holder}: "
                    "stop the cluster that runs there, or choose another data directory"
                )
            await asyncio.sleep(_LOCK_POLL_S)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        status = os.fstat(self._fd)
        self.fence = f"{_boot_id()}:{status.st_dev}:{status.st_ino}"

    def _open_lock(self) -> None:
        try:
            private_dir(self.sockets.parent)
            private_dir(self.sockets)
            if self.path is not None:
                private_dir(self.path)
            self._fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"can't use {error.filename}: {error.strerror}; choose another data directory") from error

    def _try_lock(self) -> bool:
        """Take the lock if it is free and still the one that others find: who closes takes his away with him."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        with suppress(FileNotFoundError):
            found = self._lock_path.stat()
            if self.sockets.is_dir() and os.path.samestat(found, os.fstat(self._fd)):
                return True
        os.close(self._fd)
        self._fd = -1
        self._open_lock()
        return False

    def read_state(self) -> Stored | None:
        """What the last process stored; None when there is nothing, or nothing that can be read."""
        if self.path is None:
            return None
        try:
            fields = json.loads((self.path / "state.json").read_text())
            return Stored(**fields)
        except (OSError, ValueError, TypeError):
            return None

    def write_state(self, state: Stored) -> None:
        """Replace the state, durably. Where that can't be done it is removed: nothing is kept of a disk without one.

        Raises OSError when it can't even be removed: then the last one stands, which is not true any more.
        """
        if self.path is None:
            return
        fresh = self.path / ".state.json"
        try:
            with fresh.open("w") as file:
                json.dump(asdict(state), file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path / "state.json")
        except OSError as error:
            (self.path / "state.json").unlink(missing_ok=True)
            log.warning("%s can't be written, so what is on this disk will be dropped: %s", self.path, error)
        _sync_directory(self.path)

    def mark_clean(self) -> None:
        """Say that everything is on disk and the whole cluster was asked to stop."""
        state = self.read_state()
        if state is not None:
            self.write_state(replace(state, clean=True))

    def close(self) -> None:
        """Remove what is of no use to anybody after this process, and give the lock back."""
        if self._fd >= 0:
            self.unix.unlink(missing_ok=True)
            if self.path is None:
                self._lock_path.unlink(missing_ok=True)
            with suppress(OSError):  # the sockets of other shards lie there too: the last one takes it away
                self.sockets.rmdir()
            os.close(self._fd)
            self._fd = -1


def _sync_directory(path: Path) -> None:
    """Make it last which files a directory has: without, the file before may be back after a loss of power."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _boot_id() -> str:
    """Names this run of this machine's kernel; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
