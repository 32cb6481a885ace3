"""A client that shows replies as they are: bytes in, bytes out, one parsed form that keeps what differs on the wire."""

from __future__ import annotations

import socket
from typing import Any

TIMEOUT_S = 10.0


def request(*words: str | bytes | int) -> bytes:
    """A command as an array of bulk strings."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class Raw:
    """A blocking connection. A parsed reply is a tuple of its type and value, so that `+OK` and `$2 OK` differ."""

    def __init__(self, port: int | None = None, *, unix: str | None = None) -> None:
        if unix is not None:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(TIMEOUT_S)
            self.socket.connect(unix)
        else:
            self.socket = socket.create_connection(("127.0.0.1", port or 0), TIMEOUT_S)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def run(self, *words: str | bytes | int) -> Any:
        """Send a command and read its reply."""
        self.send(request(*words))
        return self.read()

    def read(self) -> Any:
        """Read one reply; raises ConnectionError when the server has closed."""
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed by the server")
        kind, rest = line[:1].decode(), line[1:-2]
        if kind in "+-:_#,(":
            return kind, rest.decode("utf-8", "replace")
        if kind in "$=":
            length = int(rest)
            return (kind, None) if length < 0 else (kind, self.file.read(length + 2)[:-2])
        count = int(rest)
        if count < 0:
            return kind, None
        if kind == "%":
            return kind, [(self.read(), self.read()) for _ in range(count)]
        assert kind in "*~>", f"unknown reply type {line!r}"
        return kind, [self.read() for _ in range(count)]

    def closed_by_server(self) -> bool:
        """Whether the server closes the connection; reads away what it still sends."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return True
        return True
