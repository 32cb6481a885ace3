"""SIGTERM: what was received is answered and kept, nothing new is taken, and the process ends in time."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

from tests.wire.processes import running_node
from tests.wire.raw import Raw, request


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    """Every put that got its OK before the end is served from disk by the next process."""
    data_dir = str(tmp_path / "data")
    acknowledged = 0
    with running_node("--data-dir", data_dir) as (process, port), Raw(port) as client:
        client.run("SC.PUT", "tagged", "v", "TAGS", 1, "t", "PX", 600_000)

        def put_until_closed() -> None:
            nonlocal acknowledged
            try:
                while True:
                    if client.run("SET", f"k{acknowledged}", f"v{acknowledged}") != ("+", "OK"):
                        return
                    acknowledged += 1
            except OSError:
                return

        thread = threading.Thread(target=put_until_closed)
        thread.start()
        until = time.monotonic() + 20
        while acknowledged < 500:
            assert time.monotonic() < until
            time.sleep(0.005)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert time.monotonic() - begun < 12
        thread.join(10)
    with running_node("--data-dir", data_dir) as (_, port), Raw(port) as client:
        for number in range(acknowledged):
            assert client.run("GET", f"k{number}") == ("$", f"v{number}".encode()), number
        assert client.run("SC.INVTAGS", "t") == (":", "1")


def test_a_pipeline_that_was_received_is_answered(tmp_path: Path) -> None:
    """Commands that reached the node before SIGTERM get their replies, then the connection ends."""
    with running_node() as (process, port), Raw(port) as client:
        client.send(request("SET", "k", "v") * 20_000)
        assert client.read() == ("+", "OK")  # it has begun
        process.send_signal(signal.SIGTERM)
        answered = 1
        try:
            while client.read() == ("+", "OK"):
                answered += 1
        except OSError:
            pass
        assert process.wait(15) == 0
        assert answered >= 500, "the commands at hand were dropped"


def test_a_waiting_client_does_not_hold_up_the_end() -> None:
    """Somebody who waits for a lease is cut off when the deadline has come."""
    with running_node("--stop-s", "2") as (process, port), Raw(port) as first, Raw(port) as second:
        first.run("SC.LEASE", "k", 0, 60_000)
        second.send(request("SC.LEASE", "k", 60_000, 60_000))
        assert first.run("PING") == ("+", "PONG")
        process.send_signal(signal.SIGTERM)
        assert process.wait(8) == 0
