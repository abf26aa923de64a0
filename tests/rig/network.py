"""A way to the broker that can be slow, stop at certain bytes, break or fall silent."""

import contextlib
import socket
import sys
import threading
import time
from typing import Any

# As AMQP 0-9-1 has them on the wire.
CONFIRM_SELECT, PUBLISH = b"\x00\x55\x00\x0a", b"\x00\x3c\x00\x28"
CONNECTION_CLOSE = b"\x00\x0a\x00\x32"


class Link:
    """One connection through a Network: two sockets, and a gate before what is passed on."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.client, self.broker = client, broker
        self.gate = threading.Event()
        self.gate.set()
        self.silent = False

    def close(self) -> None:
        for end in (self.client, self.broker):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.gate.set()


class Network:
    """The way to a broker's port, or to the first of several ports that answers.

    It cuts every connection at the bytes `cut_at`, or `cut_after` so many, of the
    client. Every `chunk` bytes wait for `pause` seconds in either direction.
    """

    def __init__(self, *ports: int) -> None:
        self.chunk, self.pause, self.hold_at = 65536, 0.0, b""
        self.cut_at, self.cut_after = b"", sys.maxsize
        self.held = threading.Event()
        self.connected: list[float] = []  # when clients came (time.monotonic())
        self._ports = ports
        self._closing = threading.Event()
        self._links: list[Link] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = self._spawn(self._accept)

    def url(self, query: str = "") -> str:
        """Return the AMQP URL that leads through this network."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F{query}"

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
            link.silent = True
            link.gate.clear()

    def cut(self) -> None:
        """Close the connections there are, at both ends; new ones work."""
        for link in list(self._links):
            link.close()

    def _spawn(self, target: Any, *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    def _connect(self) -> socket.socket:
        for port in self._ports:
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port))
        raise OSError("no broker answers")

    def _accept(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(OSError):  # no broker answers, or this network closes
                client, _ = self._listener.accept()
                self.connected.append(time.monotonic())
                try:
                    link = Link(client, self._connect())
                except OSError:
                    client.close()
                    continue
                for end in (link.client, link.broker):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._links.append(link)
                for way in ((link.client, link.broker), (link.broker, link.client)):
                    self._threads.append(self._spawn(self._pass_on, link, *way))

    def _pass_on(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        tail, passed = b"", 0
        with contextlib.suppress(OSError):
            while data := source.recv(self.chunk):
                tail = tail[-8:] + data
                if source is link.client:
                    self._look_at(link, tail)
                    data = data[: max(self.cut_after - passed, 0)]
                passed += len(data)
                self._closing.wait(self.pause)
                link.gate.wait()
                sink.sendall(data)
                if source is link.client and passed >= self.cut_after:
                    break
        if link.silent:
            link.gate.wait()
        link.close()

    def _look_at(self, link: Link, data: bytes) -> None:
        """Hold up or cut a connection if the client sends certain bytes."""
        if self.cut_at and self.cut_at in data:
            link.close()
        if self.hold_at and self.hold_at in data:
            self.hold_at = b""
            link.gate.clear()
            self.held.set()

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._acceptor.join(10)  # from now on there are no new links
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for link in self._links:
            link.client.close()
            link.broker.close()
        self._listener.close()
