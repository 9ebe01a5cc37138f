"""A TCP proxy whose connections can be held in one direction, then cut: an answer that never comes, at will."""

from __future__ import annotations

import contextlib
import socket
import threading

_CHUNK_BYTES = 65_536


class Proxy:
    """Forwards a loopback port to another.

    Attributes:
        port: Where it listens.
        requests_bytes: Bytes forwarded to the server so far.
        answers_held_bytes: Bytes of the server that were read and held back since the hold began.
        requests_held_bytes: Bytes of clients that were read and held back since the hold began.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests_bytes = 0
        self.answers_held_bytes = 0
        self.requests_held_bytes = 0
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._requests_flow = threading.Event()
        self._answers_flow = threading.Event()
        self._requests_flow.set()
        self._answers_flow.set()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def hold_answers(self) -> None:
        """From now on the server's words are kept from the clients."""
        self.answers_held_bytes = 0
        self._answers_flow.clear()

    def hold_requests(self) -> None:
        """From now on the clients' words are kept from the server."""
        self.requests_held_bytes = 0
        self._requests_flow.clear()

    def cut(self) -> None:
        """Drop all connections with whatever was held, and let new ones through."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _drop(*pair)
        self._requests_flow.set()
        self._answers_flow.set()

    def close(self) -> None:
        """Drop everything and listen no more."""
        _drop(self._listener)
        self.cut()

    # -- threads -------------------------------------------------------------------------------------------------
    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            for source, sink, to_server in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, to_server), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        flow = self._requests_flow if to_server else self._answers_flow
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                if not flow.is_set():
                    self._count_held(len(chunk), to_server)
                    flow.wait()
                sink.sendall(chunk)
                if to_server:
                    self.requests_bytes += len(chunk)
        _drop(source, sink)

    def _count_held(self, size: int, to_server: bool) -> None:
        if to_server:
            self.requests_held_bytes += size
        else:
            self.answers_held_bytes += size


def _drop(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
