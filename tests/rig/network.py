"""A way to RabbitMQ where something can happen while certain bytes are on their way."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable

import pika

from rig.waiting import LIMIT

# Methods of AMQP on the wire: their class and number.
CONNECTION_CLOSE = b"\x00\x0a\x00\x32"
CONSUME_OK = b"\x00\x3c\x00\x15"
BASIC_ACK = b"\x00\x3c\x00\x50"  # from RabbitMQ, it is a confirmation


Faults = dict[bytes, Callable[[], object] | None]


def cut() -> None:
    """Cut the connection on which the bytes are: a fault for Network."""
    raise ConnectionAbortedError


class Network(socketserver.ThreadingTCPServer):
    """Pass on what clients send to the RabbitMQ at `url`, and what it answers.

    When bytes of `sent` or `answered` come for the first time, their fault is called before they
    are passed on; None keeps them back for ever. A fault that raises OSError cuts the connection.
    Any other exception is raised by the end of the `with`, which comes when no client is left, or
    noted in the exception that ends it. While `is_open` is false, a client is accepted and reset,
    as Docker does it.
    """

    def __init__(
        self, url: str, sent: Faults | None = None, answered: Faults | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._rabbitmq = ("127.0.0.1", pika.URLParameters(url).port)
        self.url = url.replace(f":{self._rabbitmq[1]}/", f":{self.server_address[1]}/")
        self.sent, self.answered = bytearray(), bytearray()  # all that has come
        self._faults = [(self.sent, dict(sent or {})), (self.answered, dict(answered or {}))]
        self.is_open, self.resets = True, 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    def finish_request(self, client: socket.socket, _: object) -> None:  # type: ignore[override]
        """Serve a client, in a thread of its own."""
        if not self.is_open:
            self.resets += 1
            return
        with contextlib.suppress(OSError), socket.create_connection(self._rabbitmq) as rabbitmq:
            answers = threading.Thread(
                target=self._pass_on, args=[rabbitmq, client, *self._faults[1]], daemon=True
            )
            answers.start()
            self._pass_on(client, rabbitmq, *self._faults[0])
            answers.join(LIMIT)

    def _pass_on(
        self, source: socket.socket, to: socket.socket, seen: bytearray, faults: Faults
    ) -> None:
        """Pass on what comes until one side ends; then end both."""
        try:
            while data := source.recv(65536):
                with self._lock:
                    seen += data
                    due = [faults.pop(key) for key in list(faults) if key in seen]
                for fault in due:
                    (fault or self._over.wait)()
                to.sendall(data)
        except OSError:
            pass  # one side has ended, or cut()
        except BaseException as error:
            self._errors.append(error)
        for end in (source, to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __exit__(self, _: object, raised: BaseException | None, __: object) -> None:
        self._over.set()
        self.shutdown()
        self.server_close()
        for error in self._errors:
            if not raised:
                raise error
            raised.add_note(f"Network: {error!r}")
