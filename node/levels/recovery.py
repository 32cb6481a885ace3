"""Opens the directory of L3: whose is it, which format, was it left in good order, may it be believed?

Invariants: one process at a time (a lock file, freed by the kernel when its holder dies); what can't be believed is
set aside under one name, never served and never opened again, so that a damaged file can't make a crash loop; after
`open_directory` the marks of the run before are suspects, and the `clean` note is gone until the next good close.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import lmdb

from ..errors import CorruptionError, UnavailableError
from .sidefile import SideFile, Stamp, fsync_directory, read_boot_id
from .store import RecordStore

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = b"stratacache l3 format 2\n"
PROBE_DEADLINE_S: Final = 600.0
_log = logging.getLogger(__name__)


@dataclass
class Opened:
    """An open directory of L3."""

    store: RecordStore
    side: SideFile
    lock: int
    suspects: bytes | None
    set_aside: str
    """Why the content of the run before was set aside; empty when it was not."""
    pid: int = field(default_factory=os.getpid)


def open_directory(directory: Path, bytes_max: int, *, write_through: bool, rebuild: bool) -> Opened:
    """Open or make the directory.

    Raises UnavailableError when another process has it, CorruptionError for an unknown format (unless `rebuild`),
    OSError or lmdb.Error when the disk refuses.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock(directory)
    try:
        return _open_locked(directory, bytes_max, write_through=write_through, rebuild=rebuild, lock=lock)
    except BaseException:
        _unlock(lock)
        raise


def distrust_directory(directory: Path) -> bool:
    """See to it that no later run believes what lies there, which this one does not keep up; whether that is done.

    Raises UnavailableError when another process has the directory.
    """
    try:
        if not (directory / "data.mdb").exists():
            return True
        lock = _lock(directory)
    except OSError:
        return False
    try:
        _set_aside(directory, "a run that could not use it, or was not to, has changed what it holds")
    except OSError:
        return False
    finally:
        _unlock(lock)
    return True


def leave_directory(directory: Path) -> None:
    """Run without the disk level that an earlier run had here: what it left would be out of date for the next one.

    Raises UnavailableError when that can't be set aside, or another process uses it.
    """
    if not distrust_directory(directory):
        raise UnavailableError(
            f"data directory {directory} holds a disk level of an earlier run that can't be set aside: "
            "make it writable, or name another directory"
        )


def _lock(directory: Path) -> int:
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise UnavailableError(
            f"data directory {directory} is in use by another process: give each node a directory of its own"
        ) from error
    return handle


def _unlock(handle: int) -> None:
    """Give the directory back, also where a child that was forked meanwhile has the handle too."""
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _open_locked(directory: Path, bytes_max: int, *, write_through: bool, rebuild: bool, lock: int) -> Opened:
    data = directory / "data.mdb"
    reason = _refuse_unknown(directory, rebuild=rebuild)
    if reason:
        (directory / "side").unlink(missing_ok=True)
    side = SideFile(directory / "side")
    boot_id = read_boot_id()
    if not reason and data.exists():
        reason = _distrust(directory, side, boot_id, bytes_max)
    (directory / "clean").unlink(missing_ok=True)
    store: RecordStore | None = None
    if not reason and data.exists():
        try:
            store = RecordStore(data, bytes_max, sync=write_through, side=side)
            reason = _adopt_stamp(store, side)
        except lmdb.Error as error:
            reason = f"it can't be opened ({error})"
    if reason:
        if store is not None:
            store.close(sync=False)
        _set_aside(directory, reason)
        side.wipe_all()
    if reason or store is None:
        store = RecordStore(data, bytes_max, sync=write_through, side=side)
        side.stamp(Stamp(store.last_txn, 0, 0), sync=write_through)
    side.incarnation += 1
    side.distrust = False
    side.write_behind = not write_through
    side.boot_id = boot_id
    side.save()
    _note_format(directory)
    fsync_directory(directory)
    return Opened(store, side, lock, side.adopt_marks(), reason)


def _note_format(directory: Path) -> None:
    """Say which format the directory has; whole or not at all, since without it nothing here can be read again."""
    note = directory / "format"
    if note.exists() and note.read_bytes() == FORMAT:
        return
    fresh = directory / "format.new"
    with fresh.open("wb") as file:
        file.write(FORMAT)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(note)


def _refuse_unknown(directory: Path, *, rebuild: bool) -> str:
    """Refuse what another program or version has written; with `rebuild` give the reason to set it aside."""
    note = directory / "format"
    found = note.read_bytes() if note.exists() else b""
    if found == FORMAT or not (found or (directory / "data.mdb").exists()):
        return ""
    reason = f"its format {found[:40]!r} is not {FORMAT.strip()!r}"
    if not rebuild:
        raise CorruptionError(
            f"data directory {directory} can't be read: {reason}; name another directory, or set l3_rebuild=True "
            "to set its content aside"
        )
    return reason


def _distrust(directory: Path, side: SideFile, boot_id: bytes, bytes_max: int) -> str:
    """Why the content may not be believed; empty when it may."""
    if side.fresh:
        return "its side file is missing or damaged"
    if side.distrust:
        return "writes to it failed in the run before"
    data = directory / "data.mdb"
    if data.stat().st_size > bytes_max:
        return f"it has {data.stat().st_size} bytes, over the budget of {bytes_max}"
    if _left_clean(directory):
        return ""
    if side.write_behind and (not boot_id or side.boot_id != boot_id):
        return "the machine went down before the last writes were flushed"
    return _probe(data, bytes_max, side)


def _left_clean(directory: Path) -> bool:
    """Whether the last run closed the file, and nobody has written to it since."""
    note = directory / "clean"
    return note.exists() and note.read_text() == fingerprint(directory / "data.mdb")


def fingerprint(data: Path) -> str:
    """What a file looks like from outside."""
    stat = data.stat()
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def _probe(data: Path, bytes_max: int, side: SideFile) -> str:
    """Walk the file in a child process; gives what is wrong with it."""
    command = [sys.executable, "-m", "stratacache.node.levels.probe", str(data), str(bytes_max)]
    try:
        child = subprocess.run(command, capture_output=True, timeout=PROBE_DEADLINE_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"walking it took longer than {PROBE_DEADLINE_S:.0f} s"
    if child.returncode != 0:
        lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
        return f"walking it ended with {child.returncode} ({lines[-1] if lines else 'crash'})"
    txn, versions, count = map(int, child.stdout.split())
    if Stamp(txn, versions, count) not in side.stamps():
        return "its records do not add up to what was written"
    return ""


def _adopt_stamp(store: RecordStore, side: SideFile) -> str:
    """Take over the sums of the run before; gives what is wrong."""
    for stamp in side.stamps():
        if stamp.txn == store.last_txn:
            store.versions, store.count = stamp.versions, stamp.count
            return ""
    return "it is not at the transaction that was last written"


def _set_aside(directory: Path, reason: str) -> None:
    data = directory / "data.mdb"
    if data.exists():
        _log.warning("L3 begins afresh in %s, the old file is set aside as data.mdb.broken: %s", directory, reason)
        data.replace(directory / "data.mdb.broken")
    (directory / "data.mdb-lock").unlink(missing_ok=True)


def close_directory(directory: Path, opened: Opened, *, clean: bool) -> None:
    """Close everything; `clean` leaves the note that spares the next start the walk."""
    opened.store.close(sync=clean)
    if clean:
        opened.side.wipe_changes()
    opened.side.save()
    opened.side.close()
    if clean:
        (directory / "clean").write_text(fingerprint(directory / "data.mdb"))
    if os.getpid() == opened.pid:
        _unlock(opened.lock)
    else:  # a forked child's copy: the lock is its parent's
        os.close(opened.lock)
