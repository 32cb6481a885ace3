"""The local Ray that `up` starts when there is none, and how to end exactly that one.

`ray stop` ends every Ray on the machine, other people's too. So a head is started as the leader of a session of its
own (`setsid`): all its processes, workers included, carry the leader's session id, and nobody else's do.

Invariant: a process is only ever ended when its session is that of a head that we started, which the leader's start
time, or while the leader is gone the kernel's boot id, confirms.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from stratacache.cluster.state import RayHead, state_dir
from stratacache.node.errors import UnavailableError

START_DEADLINE_S: Final = 60.0
END_GRACE_S: Final = 5.0
END_DEADLINE_S: Final = 20.0
_POLL_S: Final = 0.05
_STARTED: Final = "Ray runtime started"


def find_ray() -> str | None:
    """The address of the Ray cluster to use: RAY_ADDRESS, else the local one that Ray itself would find.

    Raises UnavailableError when RAY_ADDRESS names a cluster that does not answer.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        return address
    if address and address not in ("auto", "local"):
        if not _answers(address):
            raise UnavailableError(
                f"no Ray cluster answers at RAY_ADDRESS={address}: correct it, or unset it to start a local Ray"
            )
        return address
    address = _announced()
    return address if address and _answers(address) else None


def _announced() -> str:
    """The address that the last head started on this machine wrote down, and by which everybody finds it."""
    try:
        from ray._private.utils import read_ray_address
    except ImportError:
        return ""
    return read_ray_address() or ""


def require_ray() -> None:
    """Raise UnavailableError with the way out when Ray is not installed."""
    try:
        import ray  # noqa: F401 - only whether it is there
    except ImportError:
        raise UnavailableError(
            "Ray is not installed: pip install 'stratacache[ray]' (or serve without it: stratacache node)"
        ) from None


def connect_ray(address: str) -> None:
    """Connect this process to a Ray cluster, quietly; raises UnavailableError when it does not answer."""
    import ray

    if ray.is_initialized():
        return
    if address != os.environ.get("RAY_ADDRESS"):
        _use_token(create=False)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="stratacache")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"can't connect to Ray at {address}: {_first_line(error)}") from error


def disconnect_ray() -> None:
    """Leave the Ray that this process is connected to, if any; do it before that Ray ends, or the exit waits for it."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def start_head(name: str) -> RayHead:
    """Start a local Ray in a session of its own; returns when it accepts drivers."""
    port, client_port = _free_ports(2)
    log = state_dir() / f"{name}.ray.log"
    # fmt: off
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client_port}",
        "--include-dashboard=false",
    ]
    # fmt: on
    _use_token(create=True)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    head = RayHead(pid=process.pid, started=_start_mark(process.pid), address=f"127.0.0.1:{port}", log=str(log))
    try:
        _wait_started(process, log)
    except BaseException:
        end_head(head)
        raise
    return replace(head, address=_announced() or head.address)


def _use_token(*, create: bool) -> None:
    """Have Ray ask for its token (~/.ray/auth_token), as it does by itself for a cluster that `ray.init()` starts.

    Without one, whoever reaches the head over the network may run programs. RAY_AUTH_MODE has the last word; a Ray
    that knows no tokens (before 2.52) is left as it is.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of what is done here on purpose
    if "RAY_AUTH_MODE" in os.environ:
        return
    with suppress(ImportError):
        from ray._private.authentication import authentication_token_setup as setup

        if create and not setup.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            setup.generate_and_save_token()
        setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _wait_started(process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_DEADLINE_S
    while _STARTED not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > until:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise UnavailableError(
                f"a local Ray could not be started ({lines[-1] if lines else 'no output'}): see {log}"
            )
        time.sleep(_POLL_S)


def end_head(head: RayHead) -> None:
    """End every process of a head that we started, and wait until they are gone."""
    if not _is_ours(head):
        return
    pids = set(_session(head.pid))
    _signal(pids & {head.pid}, signal.SIGTERM)  # the leader ends its children in order
    began = time.monotonic()
    while pids := set(_session(head.pid)):
        if time.monotonic() - began > END_GRACE_S:
            _signal(pids, signal.SIGKILL)
        if time.monotonic() - began > END_DEADLINE_S:
            raise UnavailableError(f"these processes of the local Ray did not end: {sorted(pids)}")
        with suppress(ChildProcessError):
            os.waitpid(head.pid, os.WNOHANG)  # when this very process started it
        time.sleep(_POLL_S)
    _forget_address(head.address)


def _forget_address(address: str) -> None:
    """Take our address out of the file by which Ray finds a local cluster, or the next program waits for it."""
    with suppress(ImportError, OSError):
        from ray._private.utils import get_ray_address_file

        file = Path(get_ray_address_file(None))
        if file.read_text().strip().rpartition(":")[2] == address.rpartition(":")[2]:
            file.unlink()


def _is_ours(head: RayHead) -> bool:
    mark = _start_mark(head.pid)
    return mark in (head.started, "") and head.started.split(":")[0] == _start_mark(os.getpid()).split(":")[0]


def _start_mark(pid: int) -> str:
    """Boot id and start time of a process: no two processes have the same; "" when there is none."""
    try:
        if Path("/proc/self/stat").exists():
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return f"{boot}:{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
        command = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
        started = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return "boot:" + started.stdout.strip().replace(":", ".") if started.stdout.strip() else ""
    except OSError:
        return ""


def _session(leader: int) -> Iterator[int]:
    """The processes of a session that have not ended."""
    for pid in _all_pids():
        try:
            if os.getsid(pid) == leader and not _is_zombie(pid):
                yield pid
        except (ProcessLookupError, PermissionError):
            continue


def _all_pids() -> list[int]:
    proc = Path("/proc")
    if (proc / "self").exists():
        return [int(path.name) for path in proc.iterdir() if path.name.isdigit()]
    listed = subprocess.run(["/bin/ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(line) for line in listed.stdout.split()]


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return True
    except (OSError, ValueError):
        return False


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
