"""What the tests of faults stand on: a network that fails on demand, a cluster, and many orders."""

import contextlib
import json
import os
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Counter, Dict, Iterable, Iterator, List, Optional, Set, Type
from urllib.parse import quote

import pika
from support import ROOT, Broker, Script, free_ports, ready, server_program, wait_until

NOTING_CONSUMER = ROOT / "tests" / "noting_consumer.py"
CONFIRM_SELECT, PUBLISH = b"\x00\x55\x00\x0a", b"\x00\x3c\x00\x28"  # as AMQP 0-9-1 has them on the wire


def write_orders(path: Path, ids: Iterable[str]) -> Path:
    """Write one order a line, for producer.py."""
    path.write_text("".join(f"{json.dumps(order)}\n" for order in map(an_order, ids)))
    return path


def an_order(order_id: str) -> Dict[str, Any]:
    """Return an order of that name."""
    return {"order_id": order_id, "customer": "John Smith", "amount": 1249.5, "status": "pending"}


def names(prefix: str, count: int) -> List[str]:
    """Return that many order names."""
    return [f"{prefix}-{number:05}" for number in range(1, count + 1)]


def drain(channel: Any, queue: str = "orders") -> Counter[str]:
    """Take all that waits in the queue; how often each message_id was there."""
    left = ready(channel, queue)
    found: Counter[str] = Counter()
    for _, properties, _ in channel.consume(queue, auto_ack=True) if left else ():
        found[properties.message_id] += 1
        left -= 1
        if not left:
            channel.cancel()
            break
    return found


def declared(broker: Broker) -> bool:
    """Tell whether the queue is there."""
    with broker.connect() as connection:
        try:
            return bool(connection.channel().queue_declare("orders", passive=True))
        except pika.exceptions.ChannelClosedByBroker:
            return False


def noted(text: bytes) -> Iterator[Dict[str, Any]]:
    """Return the orders in a text of noting_consumer.py, without a line that a SIGKILL cut short."""
    for line in text.split(b"\n"):
        with contextlib.suppress(ValueError):
            yield json.loads(line)


class Notes:
    """The orders that consumers have worked off, from the file in which noting_consumer.py notes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._count: Counter[str] = Counter()
        self._read_up_to = 0
        self._lock = threading.Lock()

    def consumer(self, url: str, seconds: float = 0) -> Script:
        """Start a consumer that notes each order as done right before it is acknowledged."""
        return Script(NOTING_CONSUMER, "--processing-time", seconds, url=url, NOTES=str(self.path))

    def count(self) -> Counter[str]:
        """Return how often each order was worked off: one counter, which each call brings up to date."""
        with self._lock, self.path.open("rb") as file:
            file.seek(self._read_up_to)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the rest is just being written
            self._read_up_to += len(whole)
            self._count.update(order["order_id"] for order in noted(whole))
            return self._count

    def orders(self) -> List[Dict[str, Any]]:
        """Return the orders as the consumers saw them, in their order, a Decimal as its repr."""
        return list(noted(self.path.read_bytes()))

    def wait_for(self, ids: Iterable[str], limit: float = 60) -> Counter[str]:
        """Wait until each of the orders was worked off."""
        wanted = set(ids)
        wait_until(lambda: wanted <= self.count().keys(), f"{len(wanted)} orders in {self.path}", limit)
        return self.count()


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
    """The way to a broker's port: it can be slow, stop at certain bytes of the client, or fall silent.

    Every `chunk` bytes wait for `pause` seconds in either direction. `bytes_from_broker` counts what
    came back.
    """

    def __init__(self, port: int) -> None:
        self.chunk, self.pause, self.hold_at = 65536, 0.0, b""
        self.held = threading.Event()
        self.bytes_from_broker = 0
        self._target = port
        self._closing = threading.Event()
        self._links: List[Link] = []
        self._threads: Set[threading.Thread] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)

    def url(self, query: str = "") -> str:
        """Return the AMQP URL that leads through this network."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{quote('/', safe='')}{query}"

    def hold_up_at(self, sign: bytes) -> None:
        """Let the next connection whose client sends these bytes stop right before them."""
        self.held.clear()
        self.hold_at = sign

    def release(self) -> None:
        """Pass on what was held up."""
        for link in self._links:
            link.gate.set()

    def fall_silent(self) -> None:
        """Pass nothing on any more, not even a close, on the connections there are; new ones work."""
        for link in self._links:
            link.silent = True
            link.gate.clear()

    def _spawn(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(OSError):  # the broker is down, or this network closes
                client, _ = self._listener.accept()
                try:
                    link = Link(client, socket.create_connection(("127.0.0.1", self._target)))
                except OSError:
                    client.close()
                    continue
                self._links.append(link)
                self._spawn(self._pass_on, link, link.client, link.broker)
                self._spawn(self._pass_on, link, link.broker, link.client)

    def _pass_on(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        tail = b""
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(self.chunk)
                if not data:
                    break
                if source is link.broker:
                    self.bytes_from_broker += len(data)
                tail = tail[-8:] + data
                if self.hold_at and source is link.client and self.hold_at in tail:
                    self.hold_at = b""
                    link.gate.clear()
                    self.held.set()
                self._closing.wait(self.pause)
                link.gate.wait()
                sink.sendall(data)
        if link.silent:
            link.gate.wait()
        link.close()

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        for link in list(self._links):
            link.close()
        for thread in list(self._threads):
            thread.join(10)
        for link in self._links:
            link.client.close()
            link.broker.close()
        self._listener.close()


class Cluster:
    """Three RabbitMQ nodes on this machine, all of their files in `folder`."""

    def __init__(self, folder: Path) -> None:
        port = free_ports(1)[0]
        # A node that starts an epmd takes it along when it is killed, and here they share one.
        environment = {"ERL_EPMD_PORT": str(port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        self.nodes = [Broker(folder / f"node{number}", "", **environment) for number in (1, 2, 3)]
        peers = [node.node_name for node in self.nodes]
        lines = ["cluster_formation.peer_discovery_backend = classic_config"]
        lines += [f"cluster_formation.classic_config.nodes.{n} = {peer}" for n, peer in enumerate(peers, 1)]
        for number in (1, 2, 3):
            (folder / f"node{number}" / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
            cookie = folder / f"node{number}" / ".erlang.cookie"
            cookie.write_text("ORDERS")
            cookie.chmod(0o400)
        self._epmd = subprocess.Popen([server_program("epmd")], env={**os.environ, **environment})

    def url(self, *first: Broker) -> str:
        """Return an AMQP URL that names all nodes, these ones first."""
        return ",".join(node.url() for node in [*first, *(n for n in self.nodes if n not in first)])

    def start(self) -> "Cluster":
        """Start the nodes that do not run, at once: the first start waits for the others."""
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda node: node.start(), [n for n in self.nodes if not n.running()]))
        wait_until(lambda: all(node.is_alive() for node in self.nodes), "three nodes that let clients in")
        return self

    def leader(self) -> Broker:
        """Return the node that leads the queue (costs a second or two)."""
        table = self.nodes[0].rabbitctl_output("-q", "list_queues", "--no-table-headers", "name", "leader")
        rows = dict(line.split() for line in table.splitlines())
        return next(n for n in self.nodes if n.node_name == rows["orders"])

    def kill(self) -> None:
        """Kill what runs."""
        for node in self.nodes:
            node.kill()
        self._epmd.kill()
        self._epmd.wait()
