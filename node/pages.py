"""A small HTTP server in threads of its own, for pages that tools ask for: metrics and health.

It is no part of the data path: nothing here runs on the event loop that serves the cache. A page that needs that loop's
state asks for a snapshot with `from_loop`.

Invariants: it answers GET and HEAD only; at most `REQUESTS_MAX` requests are in work, the next is refused at once; a
client that neither asks nor reads is cut off after `CLIENT_S`, and one that does so a byte at a time after `REQUEST_S`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, TypeVar

from stratacache.node.errors import UnavailableError

REQUESTS_MAX: Final = 8
CLIENT_S: Final = 5.0
REQUEST_S: Final = 10.0
SNAPSHOT_S: Final = 2.0
TEXT: Final = "text/plain; charset=utf-8"

T = TypeVar("T")
log = logging.getLogger(__name__)


class Page(NamedTuple):
    """What a request is answered with."""

    body: bytes
    kind: str = TEXT
    status: int = 200


Pages = Mapping[str, Callable[[str], Page]]
"""By path: what makes the page. It is called in a thread, with the request's `Accept` header."""


class PageServer:
    """Serves `pages` from the moment it is made until `close`. Raises OSError when it can't listen there."""

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self._server = _Server((host, port), _handler(pages))
        self._thread = threading.Thread(target=self._server.serve_forever, name="pages", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """`host:port`."""
        host = str(self._server.server_address[0])
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def close(self) -> None:
        """Listen no more. Blocks for up to half a second."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.slots = threading.BoundedSemaphore(REQUESTS_MAX)
        self._begun_s: dict[socket.socket, float] = {}
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._begun_s[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started now
            self._ended(request)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._ended(request)

    def _ended(self, request: Any) -> None:
        self._begun_s.pop(request, None)
        self.slots.release()

    def service_actions(self) -> None:
        """Called twice a second while it serves: a byte now and then keeps a request alive, but not for ever."""
        late_s = time.monotonic() - REQUEST_S
        for request, begun_s in list(self._begun_s.items()):
            if begun_s < late_s:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a request for a page broke off", exc_info=True)


def _handler(pages: Pages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers one request from one of the pages."""

        timeout = CLIENT_S

        def do_GET(self) -> None:
            """Send the page."""
            page = self._page()
            self.send_response(page.status)
            self.send_header("Content-Type", page.kind)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(page.body)

        do_HEAD = do_GET  # noqa: N815 - the base class's name

        def _page(self) -> Page:
            make = pages.get(self.path.partition("?")[0])
            if make is None:
                return Page(f"pages: {' '.join(pages)}\n".encode(), status=404)
            try:
                return make(self.headers.get("Accept", ""))
            except UnavailableError as error:
                return Page(f"{error}\n".encode(), status=503)
            except Exception:
                log.exception("the page %s could not be made", self.path)
                return Page(b"the page could not be made: see the log\n", status=500)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing: a scrape every few seconds would drown the log."""

    return Handler


def from_loop(loop: asyncio.AbstractEventLoop, take: Callable[[], T]) -> T:
    """What `take` gives on the loop, asked from another thread; UnavailableError when the loop does not come to it."""
    future: Future[T] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(take())
            except Exception as error:  # noqa: BLE001 - it belongs to the one who asked
                future.set_exception(error)

    try:
        loop.call_soon_threadsafe(run)
        return future.result(SNAPSHOT_S)
    except TimeoutError:
        future.cancel()
        raise UnavailableError(f"the event loop gave no figures within {SNAPSHOT_S:g} s") from None
    except RuntimeError as error:
        raise UnavailableError("the process is ending") from error
