"""A way to the broker that can be slow, break, or stop at certain bytes."""

import contextlib
import socket
import socketserver
import sys
import threading
import time
from typing import Any

# As AMQP 0-9-1 has them on the wire: class and method.
BASIC_QOS, PUBLISH, BASIC_ACK = b"\x00\x3c\x00\x0a", b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50"
CONNECTION_CLOSE = b"\x00\x0a\x00\x32"


class Network(socketserver.ThreadingTCPServer):
    """The way to a broker's port, or to the first of several ports that answers.

    It cuts every connection after `cut_after` bytes of the client, and once at its bytes `cut_at`.
    What comes at once waits for `pause` seconds in either direction. `connections` counts the
    clients that came, `cuts` how often `cut_at` was found.
    """

    request_queue_size = 100

    def __init__(self, *ports: int) -> None:
        self.pause, self.cut_at, self.cut_after = 0.0, b"", sys.maxsize
        self.connections, self.cuts = 0, 0
        self.held = threading.Event()  # whether hold_up_at() has held something up
        self._hold_at, self._gate = b"", threading.Event()
        self._gate.set()
        self._ports = ports
        self._ends: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)

    def url(self, vhost: str = "%2F") -> str:
        """Return the AMQP URL that leads through this network."""
        return f"amqp://guest:guest@127.0.0.1:{self.server_address[1]}/{vhost}"

    def hold_up_at(self, sign: bytes) -> None:
        """Stop right before a client's bytes, and let nothing pass any more until release()."""
        self._hold_at = sign

    def release(self) -> None:
        """Pass on what was held up."""
        self._gate.set()

    def cut(self) -> None:
        """Close the connections there are, at both ends; new ones work."""
        for end in list(self._ends):
            with contextlib.suppress(OSError):  # it is closed already
                end.shutdown(socket.SHUT_RDWR)

    def verify_request(self, *_: Any) -> bool:
        """Count the client; called in the one thread that accepts clients."""
        self.connections += 1
        return True

    def finish_request(self, client: Any, _: Any) -> None:
        """Pass on what the ends of a connection send (socketserver has a thread for each)."""
        with contextlib.suppress(OSError), self._connect() as broker:
            for end in (client, broker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ends.append(end)
            back = threading.Thread(target=self._pass_on, args=(broker, client))
            back.start()
            self._pass_on(client, broker, from_client=True)
            back.join()

    def _connect(self) -> socket.socket:
        for port in self._ports:
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port))
        raise OSError("no broker answers")

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, from_client: bool = False
    ) -> None:
        """Pass on what comes from one end to the other, until one is closed; then close both."""
        tail, left = b"", self.cut_after if from_client else sys.maxsize
        with contextlib.suppress(OSError):
            while left and (data := source.recv(65536)[:left]):
                if from_client:
                    tail = tail[-8:] + data
                    self._look_at(tail)
                time.sleep(self.pause)
                self._gate.wait()
                sink.sendall(data)
                left -= len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _look_at(self, data: bytes) -> None:
        """Hold up a connection, or cut it by an error, if the client sends certain bytes."""
        if self.cut_at and self.cut_at in data:
            self.cuts += 1
            self.cut_at = b""
            raise ConnectionError
        if self._hold_at and self._hold_at in data:
            self._hold_at = b""
            self._gate.clear()
            self.held.set()

    def __enter__(self) -> "Network":
        threading.Thread(target=self.serve_forever, args=[0.02]).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()  # from now on there are no new clients
        self._hold_at = b""
        self.release()
        self.cut()
        self.server_close()  # waits for the threads
