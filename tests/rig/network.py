"""A way to the broker that can be slow, stop at certain bytes, break or fall silent."""

import contextlib
import socket
import socketserver
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# As AMQP 0-9-1 has them on the wire.
PUBLISH, CONNECTION_CLOSE = b"\x00\x3c\x00\x28", b"\x00\x0a\x00\x32"


class Link:
    """One connection through a Network: two sockets, and a gate before what is passed on."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.client, self.broker = client, broker
        self.gate = threading.Event()
        self.gate.set()
        for end in (client, broker):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        for end in (self.client, self.broker):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.gate.set()


class Network(socketserver.ThreadingTCPServer):
    """The way to a broker's port, or to the first of several ports that answers.

    It cuts every connection after `cut_after` bytes of the client, or at its bytes `cut_at`.
    What comes at once waits for `pause` seconds in either direction. `connections` counts the
    clients that came, `cuts` how often `cut_at` was found.
    """

    request_queue_size = 100

    def __init__(self, *ports: int) -> None:
        self.pause, self.hold_at = 0.0, b""
        self.cut_at, self.cut_after = b"", sys.maxsize
        self.held = threading.Event()
        self.connections, self.cuts = 0, 0
        self._ports, self._links, self._closing = ports, list[Link](), False
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)

    def url(self, query: str = "") -> str:
        """Return the AMQP URL that leads through this network."""
        return f"amqp://guest:guest@127.0.0.1:{self.server_address[1]}/%2F{query}"

    def hold_up_at(self, sign: bytes) -> None:
        """Let the next connection whose client sends these bytes stop right before them."""
        self.held.clear()
        self.hold_at = sign

    def release(self) -> None:
        """Pass on what was held up."""
        for link in self._links:
            link.gate.set()

    def fall_silent(self) -> None:
        """Pass nothing on any more, not even a close; new connections work."""
        for link in self._links:
            link.gate.clear()

    def cut(self) -> None:
        """Close the connections there are, at both ends; new ones work."""
        for link in list(self._links):
            link.close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Count the client; called in the one thread that accepts clients."""
        self.connections += 1
        return super().get_request()

    def finish_request(self, client: Any, _: Any) -> None:
        """Pass on what the ends of a connection send (socketserver has a thread for each)."""
        with contextlib.suppress(OSError), self._connect() as broker, ThreadPoolExecutor() as pool:
            link = Link(client, broker)
            self._links.append(link)
            if self._closing:
                link.close()
            pool.submit(self._pass_on, link, broker, client)
            self._pass_on(link, client, broker)

    def _connect(self) -> socket.socket:
        for port in self._ports:
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port))
        raise OSError("no broker answers")

    def _pass_on(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        tail, passed = b"", 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                tail = tail[-8:] + data
                if source is link.client:
                    self._look_at(link, tail)
                    data = data[: max(self.cut_after - passed, 0)]
                passed += len(data)
                time.sleep(self.pause)
                link.gate.wait()
                sink.sendall(data)
                if source is link.client and passed >= self.cut_after:
                    break
        link.gate.wait()
        link.close()

    def _look_at(self, link: Link, data: bytes) -> None:
        """Hold up or cut a connection if the client sends certain bytes."""
        if self.cut_at and self.cut_at in data:
            self.cuts += 1
            link.close()
        if self.hold_at and self.hold_at in data and not self._closing:
            self.hold_at = b""
            link.gate.clear()
            self.held.set()

    def __enter__(self) -> "Network":
        threading.Thread(target=self.serve_forever, args=[0.02]).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.shutdown()  # from now on there are no new links
        self.cut()
        self.server_close()  # waits for the threads
