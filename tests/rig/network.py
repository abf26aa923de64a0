"""A way to RabbitMQ that can hold up a client, or cut its connection, at a certain frame."""

import contextlib
import socket
import socketserver
import threading

import pika

# Methods of AMQP 0-9-1 on the wire: their class and number.
BASIC_REJECT, CONNECTION_CLOSE = b"\x00\x3c\x00\x5a", b"\x00\x0a\x00\x32"


class Network(socketserver.ThreadingTCPServer):
    """Pass on what clients send to the RabbitMQ at `url`, and what it answers.

    At the first `cut_at` that a client sends, it cuts its connection. At the first `hold_at`, it
    sets `held`, and waits for `go_on`.
    """

    daemon_threads = True

    def __init__(self, url: str, cut_at: bytes = b"", hold_at: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        port = pika.URLParameters(url).port
        self.url = url.replace(f":{port}/", f":{self.server_address[1]}/")
        self.cut_at, self.hold_at = cut_at, hold_at
        self.held, self.go_on = threading.Event(), threading.Event()
        self.sent = bytearray()  # what all clients have sent
        self._rabbitmq = ("127.0.0.1", port)

    def finish_request(self, client: socket.socket, _: object) -> None:  # type: ignore[override]
        """Serve a client, in a thread of its own."""
        with contextlib.suppress(OSError), socket.create_connection(self._rabbitmq) as rabbitmq:
            answers = threading.Thread(target=self._answer, args=[rabbitmq, client], daemon=True)
            answers.start()
            with contextlib.suppress(OSError):
                while (data := client.recv(65536)) and self._lets_pass(data):
                    rabbitmq.sendall(data)
            for end in (client, rabbitmq):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            answers.join()

    def _answer(self, rabbitmq: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := rabbitmq.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def _lets_pass(self, data: bytes) -> bool:
        self.sent += data
        if self.cut_at and self.cut_at in self.sent:
            self.cut_at = b""
            return False
        if self.hold_at and self.hold_at in self.sent:
            self.hold_at = b""
            self.held.set()
            self.go_on.wait()
        return True

    def __enter__(self) -> "Network":
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.shutdown()
        self.server_close()
