"""A way to RabbitMQ that can hold up a client, or cut its connection, at certain bytes."""

import contextlib
import socket
import socketserver
import threading

# Methods of AMQP 0-9-1 on the wire: their class and number.
PUBLISH, BASIC_ACK, BASIC_REJECT = b"\x00\x3c\x00\x28", b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x5a"
CONNECTION_CLOSE = b"\x00\x0a\x00\x32"


class Network(socketserver.ThreadingTCPServer):
    """Pass on what clients send to RabbitMQ's port, and what it answers.

    It cuts the connection of the first client that sends `cut_at`. It holds up the first one
    that sends `hold_at`, sets `held`, and waits for `go_on`.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.cut_at, self.hold_at = b"", b""
        self.held, self.go_on = threading.Event(), threading.Event()
        self._port = port
        self._ends: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)

    def url(self) -> str:
        """Return the AMQP URL that leads through this network."""
        return f"amqp://guest:guest@127.0.0.1:{self.server_address[1]}"

    def cut(self) -> None:
        """Cut the connections that there are; new ones work."""
        for end in self._ends:
            with contextlib.suppress(OSError):  # it is closed already
                end.shutdown(socket.SHUT_RDWR)

    def finish_request(self, client: socket.socket, _: object) -> None:  # type: ignore[override]
        """Serve a client, in a thread of its own."""
        with socket.create_connection(("127.0.0.1", self._port)) as rabbitmq:
            self._ends += [client, rabbitmq]
            answers = threading.Thread(target=self._pass_on, args=[rabbitmq, client])
            answers.start()
            self._pass_on(client, rabbitmq)
            answers.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what one end sends, until it closes the connection or we cut it."""
        tail = b""  # as a sign can come in two parts
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and self._lets_pass(tail + data):
                sink.sendall(data)
                tail = data[-3:]
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _lets_pass(self, data: bytes) -> bool:
        if self.cut_at and self.cut_at in data:
            self.cut_at = b""
            return False
        if self.hold_at and self.hold_at in data:
            self.hold_at = b""
            self.held.set()
            self.go_on.wait()
        return True

    def __enter__(self) -> "Network":
        threading.Thread(target=self.serve_forever, args=[0.02]).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.go_on.set()
        self.cut()
        self.server_close()
