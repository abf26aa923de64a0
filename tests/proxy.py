"""A TCP proxy on 127.0.0.1 between a script and its broker, which counts and can fall silent."""

import selectors
import socket
import threading
from typing import Dict, Optional


class Proxy:
    """Forward each connection to 127.0.0.1:`port`. Use it as a context manager.

    `connections` counts those it took, `bytes_from_broker` what came back. While `silent` is set nothing is forwarded, in either
    direction, and nothing is closed: what a client sees when a cable is pulled.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.connections = self.bytes_from_broker = 0
        self.silent = threading.Event()
        self._peers: Dict[socket.socket, socket.socket] = {}
        self._from_broker: Dict[socket.socket, bool] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._wake, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._forward, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._thread.join()
        for each in [*self._peers, self._listener, self._wake]:
            each.close()

    def _forward(self) -> None:
        selector = selectors.DefaultSelector()
        for each in (self._listener, self._wake):
            selector.register(each, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(timeout=0.1):
                ready = key.fileobj
                if ready is self._wake:
                    selector.close()
                    return
                if ready is self._listener:
                    client, _ = self._listener.accept()
                    self.connections += 1
                    server = self._dial()
                    if not server:
                        client.close()
                        continue
                    self._peers.update({client: server, server: client})
                    self._from_broker.update({client: False, server: True})
                    for each in (client, server):
                        selector.register(each, selectors.EVENT_READ)
                elif isinstance(ready, socket.socket) and not self.silent.is_set():
                    self._pass_on(ready, selector)

    def _dial(self) -> Optional[socket.socket]:
        try:
            return socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            return None

    def _pass_on(self, source: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            data = source.recv(65536)
            self._peers[source].sendall(data)
        except OSError:
            data = b""
        if self._from_broker[source]:
            self.bytes_from_broker += len(data)
        if not data:
            for each in (source, self._peers[source]):
                selector.unregister(each)
                each.close()
                del self._from_broker[each]
            del self._peers[self._peers[source]], self._peers[source]
