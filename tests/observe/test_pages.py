"""The server of pages: who keeps it waiting, or asks for more than there are places, harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
import urllib.error
from http.server import ThreadingHTTPServer

import pytest

from stratacache.node import pages
from stratacache.node.errors import UnavailableError
from stratacache.node.pages import REQUESTS_MAX, Page, PageServer, from_loop
from tests.observe.reading import read


def test_pages_are_only_served_to_who_keeps_to_the_limits() -> None:
    """Unknown paths are 404, an error of a page 500; more requests at once than there are slots are closed."""
    release = threading.Event()

    def slow(_: str) -> Page:
        release.wait(10)
        return Page(b"done\n")

    def broken(_: str) -> Page:
        raise ZeroDivisionError

    def ended(_: str) -> Page:
        raise UnavailableError("not now")

    server = PageServer("127.0.0.1", 0, {"/slow": slow, "/broken": broken, "/ended": ended})
    try:
        for path, status in (("/", 404), ("/broken", 500), ("/ended", 503)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                read(server.address, path)
            assert refused.value.code == status
            refused.value.close()
        waiting = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(REQUESTS_MAX)]
        for one in waiting:
            one.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        more = socket.create_connection(("127.0.0.1", server.port), 10)
        with more, contextlib.suppress(ConnectionResetError):
            assert more.recv(100) == b""
        release.set()
        for one in waiting:
            with one, one.makefile("rb") as answer:
                assert b"200 OK" in answer.readline()
    finally:
        release.set()
        server.close()


def test_who_asks_a_byte_at_a_time_does_not_keep_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are places would keep probes and scrapes out for as long as they like."""
    monkeypatch.setattr(pages, "REQUEST_S", 0.2)
    server = PageServer("127.0.0.1", 0, {"/page": lambda _: Page(b"done\n")})
    slow = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(REQUESTS_MAX)]
    try:
        end = time.monotonic() + 20
        answer = ""
        while not answer:
            assert time.monotonic() < end, "they still hold all places"
            for one in slow:
                with contextlib.suppress(OSError):
                    one.sendall(b"G")
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = read(server.address, "/page")
            time.sleep(0.02)
        assert answer == "done\n"
    finally:
        for one in slow:
            one.close()
        server.close()


def test_a_request_that_gets_no_thread_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may start no more threads for a while answers again afterwards."""

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    server = PageServer("127.0.0.1", 0, {"/page": lambda _: Page(b"done\n")})
    try:
        with monkeypatch.context() as patched:
            patched.setattr(ThreadingHTTPServer, "process_request", no_thread)
            for _ in range(REQUESTS_MAX + 1):
                with pytest.raises((OSError, http.client.HTTPException)):
                    read(server.address, "/page")
        assert read(server.address, "/page") == "done\n"
    finally:
        server.close()


def test_from_loop_gives_the_error_of_what_it_ran() -> None:
    """An error on the loop is raised where it was asked for."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(from_loop, loop, lambda: 1 // 0)

    asyncio.run(run())
