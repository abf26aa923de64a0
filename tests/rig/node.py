"""A RabbitMQ node of the tests' own, and how to wait for a condition."""

import atexit
import contextlib
import functools
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep  # as a test may replace time.sleep

import pika

LIMIT = 20  # seconds: far more than anything here takes
PATH = f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}"  # before Debian's wrappers
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]  # a command after it, even if we are killed

known_nodes: list["Node"] = []  # of which a failed test shows the logs
reservations: list[socket.socket] = []  # bound to ports, but they do not listen


def wait_until(condition: Callable[[], object], what: object, limit: float = LIMIT) -> None:
    """Wait until `condition` returns something true; AssertionError if that takes too long."""
    deadline = monotonic() + limit
    while not condition():
        assert monotonic() < deadline, f"waited {limit:.0f} s in vain: {what}"
        sleep(0.02)


def clean_up_at_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end this process by KeyboardInterrupt.

    SIGINT too, as Python leaves it ignored where a shell has ignored it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def free_port() -> int:
    """Return a free port that nobody else gets, not even while its node is down."""
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a node may listen there
    reservations.append(one)
    return int(one.getsockname()[1])


def listens(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@functools.cache
def epmd_port() -> int:
    """Start Erlang's port mapper for the nodes of this process; return its port.

    A node that did not find it would start another one, and leave it running.
    """
    port = free_port()
    command = [*DIES_WITH_US, "epmd", "-address", "127.0.0.1", "-port", str(port)]
    environment = {**os.environ, "PATH": PATH}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    atexit.register(process.kill)
    wait_until(lambda: listens(port), "epmd")
    return port


def new_settings(folder: Path) -> dict[str, str]:
    """Return environment variables for a node with its files in `folder`."""
    return {
        "HOME": str(folder),  # for the Erlang cookie
        "PATH": PATH,
        "ERL_EPMD_PORT": str(epmd_port()),
        # Erlang shall not burn processor time while it waits.
        "ERL_AFLAGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        "RABBITMQ_NODENAME": f"orders-{secrets.token_hex(4)}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(free_port()),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RUNNING_UNDER_SYSTEMD": "true",  # the start script becomes the node: end() hits it
    }


class Node:
    """A RabbitMQ node on 127.0.0.1, all of its files in `folder`.

    start() and end() may follow one another; what is in `folder` survives them. A Node with the
    folder of another one, also in another process, is the same node: it can be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        known_nodes.append(self)
        self.process: subprocess.Popen[bytes] | None = None  # once it was started
        settings = folder / "settings.json"
        if not settings.exists():
            settings.write_text(json.dumps(new_settings(folder)))
            (folder / "plugins").write_text("[].\n")
            (folder / "rabbitmq.conf").touch()
        self.settings: dict[str, str] = json.loads(settings.read_text())
        self.environment = {**os.environ, **self.settings}
        self.port = int(self.settings["RABBITMQ_NODE_PORT"])

    def start(self) -> None:
        """Boot it, unless it runs, and wait until it listens: that is the last thing it does."""
        if self.process and self.process.poll() is None:
            return
        with (self.folder / "output").open("a") as output:
            self.process = process = subprocess.Popen(
                [*DIES_WITH_US, "rabbitmq-server"],
                cwd=self.folder,  # as a node that is killed may leave a dump
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_until(
            lambda: listens(self.port) or process.poll() is not None, "RabbitMQ's boot", 3 * LIMIT
        )
        assert process.poll() is None, f"RabbitMQ did not start:\n{self.log_end()}"

    def log_end(self) -> str:
        """Return the last warnings and errors of its output and its log."""
        paths = [self.folder / "output", *self.folder.glob("log/*.log")]
        texts = [path.read_text(errors="replace") for path in paths]
        lines = [line for text in texts for line in text.splitlines() if "[info]" not in line]
        return "\n".join(lines[-12:])

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it: at once, or by SIGTERM in good order."""
        assert self.process, "it was not started"
        self.process.send_signal(number)
        self.process.wait(3 * LIMIT)

    def command(self, program: str, *arguments: str) -> str:
        """Return what one of RabbitMQ's commands prints (it costs a second or two)."""
        command = [program, "-q", "-n", self.settings["RABBITMQ_NODENAME"], *arguments]
        return subprocess.check_output(
            command, cwd=self.folder, env=self.environment, text=True, timeout=3 * LIMIT
        )

    def version(self) -> str:
        """Return the version of RabbitMQ."""
        return self.command("rabbitmqctl", "version").strip()

    def url(self, vhost: str = "", user: str = "guest:guest") -> str:
        """Return an AMQP URL of the node; `user` with the password."""
        return f"amqp://{user}@127.0.0.1:{self.port}/{vhost}"


@contextlib.contextmanager
def running_node(definitions: dict | None = None) -> Iterator[Node]:
    """Start a node in a temporary folder, and kill it at the end.

    `definitions` are as `rabbitmqctl export_definitions` writes them.
    """
    with tempfile.TemporaryDirectory(prefix="orders-") as folder:
        node = Node(Path(folder))
        if definitions:
            path = node.folder / "definitions.json"
            path.write_text(json.dumps(definitions))
            (node.folder / "rabbitmq.conf").write_text(f"load_definitions = {path}\n")
        try:
            node.start()
            yield node
        finally:
            known_nodes.remove(node)  # its folder goes
            if node.process:
                node.end()


@contextlib.contextmanager
def connect(url: str) -> Iterator[pika.BlockingConnection]:
    """Give a connection of the test's own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection
    except Exception:
        connection.close()
        raise
    connection.close()  # not in `finally`: after Ctrl-C in a call of pika it may never return
