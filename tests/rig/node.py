"""A RabbitMQ node of the tests' own, and how to wait for a condition."""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika

LIMIT = 20  # seconds: far more than anything here takes

reservations: list[socket.socket] = []  # bound to ports, but they do not listen
started_nodes: list["Node"] = []  # of which a failed test shows the logs


def wait_until(condition: Callable[[], object], what: object, limit: float = LIMIT) -> None:
    """Wait until `condition` returns something true; AssertionError if that takes too long."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit:.0f} s in vain: {what}"
        time.sleep(0.02)


def clean_up_at_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end this process by KeyboardInterrupt.

    SIGINT too, as Python leaves it ignored where a shell has ignored it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


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
    process = subprocess.Popen(command)
    atexit.register(process.kill)
    return port


class Node:
    """A RabbitMQ node on 127.0.0.1, all of its files in `folder`.

    start(), stop() and kill() may follow one another; what is in `folder` survives them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").touch()
        self.folder = folder
        self.name = f"orders-{secrets.token_hex(4)}@localhost"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None  # once it was started
        self.environment = {
            **os.environ,
            "HOME": str(folder),  # for the Erlang cookie
            "ERL_EPMD_PORT": str(epmd_port()),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RUNNING_UNDER_SYSTEMD": "true",  # the start script becomes the node: kill() hits it
        }

    def start(self) -> None:
        """Boot it, and wait until it lets a client in."""
        with (self.folder / "output").open("a") as output:
            self.process = subprocess.Popen(
                server_program("rabbitmq-server"),
                cwd=self.folder,  # as a node that is killed may leave a dump
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if self not in started_nodes:
            started_nodes.append(self)
        wait_until(lambda: self._answers() or not self.is_running(), "RabbitMQ's boot", 3 * LIMIT)
        assert self.is_running(), f"RabbitMQ did not start:\n{self.log_end()}"

    def _answers(self) -> bool:
        with contextlib.suppress(Exception):  # pika raises many kinds
            with self.connect():
                return True
        return False

    def is_running(self) -> bool:
        """Tell whether it has been started, and has not ended."""
        return self.process is not None and self.process.poll() is None

    def log_end(self) -> str:
        """Return the last lines of its output and its log, to look for the cause of a failure."""
        lines = []
        for path in [self.folder / "output", *self.folder.glob("log/*.log")]:
            lines += path.read_text(errors="replace").splitlines()[-8:]
        return "\n".join(lines)

    def stop(self) -> None:
        """Let it end in good order."""
        assert self.process, "it was not started"
        self.process.terminate()
        self.process.wait(3 * LIMIT)

    def kill(self) -> None:
        """End it by SIGKILL."""
        assert self.process, "it was not started"
        self.process.kill()
        self.process.wait(LIMIT)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Return what rabbitmqctl prints (it costs a second or two)."""
        command = [server_program("rabbitmqctl"), "-q", "-n", self.name, *arguments]
        return subprocess.check_output(
            command, cwd=self.folder, env=self.environment, text=True, timeout=3 * LIMIT
        )

    def url(self, vhost: str = "", user: str = "guest:guest") -> str:
        """Return an AMQP URL of the node; `user` with the password."""
        return f"amqp://{user}@127.0.0.1:{self.port}/{vhost}"

    @contextlib.contextmanager
    def connect(self, vhost: str = "") -> Iterator[pika.BlockingConnection]:
        """Give a connection of the test's own."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url(vhost)))
        try:
            yield connection
        except Exception:
            connection.close()
            raise
        connection.close()  # not in `finally`: after Ctrl-C in a call of pika it may never return


@contextlib.contextmanager
def running_node(folder: Path) -> Iterator[Node]:
    """Start a node with its files in `folder`, and kill it at the end."""
    node = Node(folder)
    try:
        node.start()
        yield node
    finally:
        if node.is_running():
            node.kill()
