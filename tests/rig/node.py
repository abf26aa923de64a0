"""A RabbitMQ node of the tests' own, and how to wait for a condition."""

import atexit
import contextlib
import functools
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pika
import psutil

# SPEED says how fast this machine is: half of it doubles all limits (tests/run: README.md).
SPEED = float(os.environ.get("SPEED", "1"))
LIMIT = 60 / SPEED  # seconds: far more than anything here takes

reservations: list[socket.socket] = []  # bound to ports, but they do not listen
started_nodes: list["Node"] = []  # of which a failed test shows the logs


def wait_until(condition: Callable[[], object], what: object, limit: float = LIMIT) -> None:
    """Wait until `condition` returns something true; AssertionError if that takes too long."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit:.0f} s in vain: {what}"
        time.sleep(0.02)


def server_program(name: str) -> str:
    """Return the path of one of RabbitMQ's programs, not of Debian's wrapper."""
    found = shutil.which(name, path=f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}")
    assert found, f"no {name}: tests/run installs it, or says how"
    return found


def free_port() -> int:
    """Return a free port that nobody else gets, not even while its node is down."""
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a node may listen there
    reservations.append(one)
    return int(one.getsockname()[1])


@functools.cache
def epmd_port() -> int:
    """Start Erlang's port mapper for the nodes of this process; return its port."""
    port = free_port()
    command = [server_program("epmd"), "-address", "127.0.0.1", "-port", str(port)]
    process = psutil.Popen(command)
    atexit.register(process.kill)
    wait_until(process.net_connections, "epmd to listen")
    return port


class Node:
    """A RabbitMQ node of our own on 127.0.0.1, all of its files in `folder`.

    `config` is the text of its rabbitmq.conf. start(), stop() and kill() may follow one
    another in any order; what is in `folder` survives them.
    """

    def __init__(self, folder: Path, config: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(config)
        self.folder = folder
        self.node_name = f"orders-{secrets.token_hex(4)}@localhost"
        self.port, distribution_port = free_port(), free_port()
        self.process: psutil.Popen | None = None  # once it was started
        self._environment = {
            **os.environ,
            "HOME": str(folder),  # for the Erlang cookie
            "ERL_EPMD_PORT": str(epmd_port()),
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            # So the start script becomes the broker: kill() hits it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def start(self) -> "Node":
        """Boot it, and wait until it lets a client in; RuntimeError, with its logs, if it fails."""
        with (self.folder / "output").open("a") as output:
            self.process = psutil.Popen(
                server_program("rabbitmq-server"),
                cwd=self.folder,  # as a node that is killed may leave a dump
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if self not in started_nodes:
            started_nodes.append(self)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self._answers() or not self.is_running(), "its boot", 2 * LIMIT)
        if not self._answers():
            raise RuntimeError(self.log_end())
        return self

    def log_end(self) -> str:
        """Return the last lines of its output and its log, to look for the cause of a failure."""
        paths = [self.folder / "output", *self.folder.glob("log/*.log")]
        lines = [path.read_text(errors="replace").splitlines()[-20:] for path in paths]
        return "\n".join(itertools.chain(*lines))

    def _answers(self) -> bool:
        with contextlib.suppress(Exception):  # pika raises many kinds
            with self.connect():
                return True
        return False

    def is_running(self) -> bool:
        """Tell whether it has been started, and has not ended."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Let it end in good order."""
        assert self.process, "it was not started"
        self.process.terminate()
        self.process.wait(2 * LIMIT)

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self.process and self.is_running():
            self.process.kill()
            self.process.wait(LIMIT)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Return what rabbitmqctl prints (it costs a second or two)."""
        command = [server_program("rabbitmqctl"), "-q", "-n", self.node_name, *arguments]
        done = subprocess.run(
            command,
            env=self._environment,
            capture_output=True,
            check=True,
            text=True,
            timeout=LIMIT,
        )
        return done.stdout

    def url(self, user: str = "guest:guest", vhost: str = "/", query: str = "") -> str:
        """Return an AMQP URL of the node; `user` with the password."""
        return f"amqp://{user}@127.0.0.1:{self.port}/{quote(vhost, safe='')}{query}"

    @contextlib.contextmanager
    def connect(self, vhost: str = "/") -> Iterator[pika.BlockingConnection]:
        """Give a connection of the test's own."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url(vhost=vhost)))
        yield connection
        # Not in a `finally`: after a signal in one of its calls close() may wait for ever.
        connection.close()


@contextlib.contextmanager
def running_node(node: Node) -> Iterator[Node]:
    """Start a node, and kill it at the end."""
    try:
        yield node.start()
    finally:
        node.kill()
