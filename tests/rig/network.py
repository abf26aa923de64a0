"""A way to RabbitMQ where something can happen while a certain frame is on its way."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable

import pika

CONNECTION_CLOSE = b"\x00\x0a\x00\x32"  # a method of AMQP on the wire: its class and number
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"  # a whole frame


def cut() -> None:
    """Cut the connection of the client that sent the frame: a fault for Network."""
    raise ConnectionAbortedError


class Network(socketserver.ThreadingTCPServer):
    """Pass on what clients send to the RabbitMQ at `url`, and what it answers.

    When `frame` is sent for the first time, call `fault()` before it is passed on.
    """

    def __init__(self, url: str, frame: bytes = b"", fault: Callable[[], object] = cut) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._rabbitmq = ("127.0.0.1", pika.URLParameters(url).port)
        self.url = url.replace(f":{self._rabbitmq[1]}/", f":{self.server_address[1]}/")
        self._frame, self._fault = frame, fault
        self.sent = bytearray()  # what all clients have sent
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    def finish_request(self, client: socket.socket, _: object) -> None:  # type: ignore[override]
        """Serve a client, in a thread of its own."""
        with contextlib.suppress(OSError), socket.create_connection(self._rabbitmq) as rabbitmq:
            answers = threading.Thread(target=self._pass_on, args=[rabbitmq, client], daemon=True)
            answers.start()
            self._pass_on(client, rabbitmq, from_client=True)
            answers.join()

    def _pass_on(self, source: socket.socket, to: socket.socket, from_client: bool = False) -> None:
        """Pass on what comes until one side ends; then end both."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if from_client:
                    self._look_at(data)
                to.sendall(data)
        for end in (source, to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _look_at(self, data: bytes) -> None:
        self.sent += data
        if self._frame and self._frame in self.sent:
            self._frame = b""
            self._fault()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
