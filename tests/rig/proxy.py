"""A proxy before RabbitMQ: something can happen while certain bytes are on their way."""

import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Callable

import pika

# Bytes of AMQP on the wire: of methods, the class and the number.
PROTOCOL_HEADER = b"AMQP"  # begins each connection
CONSUME_OK = b"\x00\x3c\x00\x15"
BASIC_ACK = b"\x00\x3c\x00\x50"  # from RabbitMQ, it is a confirmation


def cut() -> None:
    """Cut the connection on which the bytes are."""
    raise ConnectionAbortedError


class Proxy(socketserver.ThreadingTCPServer):
    """A server that passes on what clients send to the RabbitMQ at `url`, and what it answers.

    When `trigger` comes for the first time, from either side, the proxy first calls `fault`.
    """

    daemon_threads = True  # a client that never closes does not stop the end

    def __init__(self, url: str, trigger: bytes, fault: Callable[[], object]) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.url = f"amqp://127.0.0.1:{self.server_address[1]}"
        self._rabbitmq = ("127.0.0.1", pika.URLParameters(url).port)
        self._trigger, self._fault, self.triggered = trigger, fault, threading.Event()
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    def finish_request(self, client: socket.socket, _: object) -> None:
        """Serve a client, in a thread of its own, until one side ends."""
        with contextlib.suppress(OSError), socket.create_connection(self._rabbitmq) as rabbitmq:
            other_side = {client: rabbitmq, rabbitmq: client}
            seen = {client: b"", rabbitmq: b""}
            while True:
                for source in select.select(other_side, [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    seen[source] += data
                    if self._trigger in seen[source] and not self.triggered.is_set():
                        self.triggered.set()
                        self._fault()
                    other_side[source].sendall(data)

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
