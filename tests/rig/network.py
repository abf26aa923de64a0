"""A way to RabbitMQ where something can happen while certain bytes are on their way."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable

import pika

# Bytes of AMQP on the wire, of methods the class and the number.
CONSUME_OK = b"\x00\x3c\x00\x15"
PROTOCOL_HEADER = b"AMQP"  # begins each connection
BASIC_ACK = b"\x00\x3c\x00\x50"  # from RabbitMQ, it is a confirmation
BASIC_NACK = b"\x00\x3c\x00\x78"
CONNECTION_CLOSE = b"\x00\x0a\x00\x32"


class Network(socketserver.ThreadingTCPServer):
    """Pass on what clients send to the RabbitMQ at `url`, and what it answers.

    When `key` comes for the first time, from either side, the fault comes before it is passed on.
    """

    daemon_threads = True  # a client that never closes does not stop the end

    def cut(self) -> None:
        """A fault: cut the connection on which the bytes are."""
        raise ConnectionAbortedError

    def hold(self) -> None:
        """A fault: hold the bytes back until the end."""
        self.is_over.wait()

    def watch(self) -> None:
        """No fault: only notice the bytes."""

    def __init__(self, url: str, key: bytes, fault: Callable[["Network"], object] = cut) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._rabbitmq = ("127.0.0.1", pika.URLParameters(url).port)
        self.url = url.replace(f":{self._rabbitmq[1]}", f":{self.server_address[1]}")
        self.key_came, self.is_over = threading.Event(), threading.Event()
        self._key, self._fault = key, fault
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    def finish_request(self, client: socket.socket, _: object) -> None:
        """Serve a client, in a thread of its own."""
        with contextlib.suppress(OSError), socket.create_connection(self._rabbitmq) as rabbitmq:
            answers = threading.Thread(target=self._pass_on, args=[rabbitmq, client], daemon=True)
            answers.start()
            self._pass_on(client, rabbitmq)
            answers.join()

    def handle_error(self, *_: object) -> None:
        raise  # what went wrong: pytest notices it

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        """Pass on what comes until one side ends; then end both."""
        seen = b""
        try:
            while data := source.recv(65536):
                seen += data
                if self._key in seen and not self.key_came.is_set():
                    self.key_came.set()
                    self._fault(self)
                to.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, to):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.shutdown()
        self.server_close()
