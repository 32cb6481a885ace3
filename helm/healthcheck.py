#!/opt/stratacache/bin/python
"""The image's HEALTHCHECK: is what this container runs alive, be it a controller or a node?

Exit status 0 when the controller answers on port 8080 (STRATACACHE_HTTP_PORT) or a node answers a PING on port 6380
(STRATACACHE_PORT); 1 when neither does. Nothing but the standard library, so that it takes no time to start.
"""

import os
import socket
import sys
import urllib.error
import urllib.request

DEADLINE_S = 3.0


def controller_is_alive(port: int) -> bool:
    """Whether /healthz answers 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=DEADLINE_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def node_is_alive(port: int) -> bool:
    """Whether a PING is answered; one that asks for a token is alive too."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
            connection.settimeout(DEADLINE_S)
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


if __name__ == "__main__":
    alive = controller_is_alive(int(os.environ.get("STRATACACHE_HTTP_PORT", "8080"))) or node_is_alive(
        int(os.environ.get("STRATACACHE_PORT", "6380"))
    )
    sys.exit(0 if alive else 1)
