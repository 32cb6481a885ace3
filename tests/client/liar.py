"""A server that is none of ours, but for its greeting."""

from __future__ import annotations

import socket
import threading


class Liar:
    """A server that greets properly and then answers whatever it is told to."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        from stratacache.client.view import ShardInfo, View

        view = View(epoch=0, shards=(ShardInfo(id="liar", host="127.0.0.1", port=self.port),)).to_bytes()
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(sock, view), daemon=True).start()

    def _answer(self, sock: socket.socket, view: bytes) -> None:
        with sock:
            while data := sock.recv(65536):
                if b"SC.HELLO" in data:
                    sock.sendall(b"*4\r\n$5\r\nproto\r\n:1\r\n$5\r\nshard\r\n$4\r\nliar\r\n")
                elif b"SC.VIEW" in data:
                    sock.sendall(b"$%d\r\n%b\r\n" % (len(view), view))
                else:
                    sock.sendall(self.answer)
                    if not self.answer.endswith(b"\r\n"):
                        break

    def close(self) -> None:
        self._listener.close()
