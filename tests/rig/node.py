"""A RabbitMQ node of the tests' own."""

import atexit
import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pika

from rig.waiting import LIMIT, wait_until

PATH = f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}"  # before Debian's wrappers
INSTALLED = shutil.which("rabbitmq-server", path=PATH)
# What RabbitMQ would otherwise look for, or keep, where a user's own server does.
FILES = ["CONFIG_FILE", "CONFIG_FILES", "ADVANCED_CONFIG_FILE", "CONF_ENV_FILE"]
FILES += ["ENABLED_PLUGINS_FILE", "MNESIA_BASE", "LOG_BASE"]
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]  # a command after it, even if we are killed


def free_port() -> int:
    """Return a free port that nobody else gets, not even while its node is down."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a node may listen there
        os.dup(one.fileno())  # so that it stays bound as long as this process lives
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
    process = subprocess.Popen(command, env={"PATH": PATH}, stderr=subprocess.DEVNULL)
    atexit.register(process.kill)
    wait_until(lambda: listens(port), "epmd")
    return port


def log_end(folder: str | Path) -> str:
    """Return the last warnings and errors of the node that has its files there."""
    lines = Path(folder, "output").read_text(errors="replace").splitlines()
    return "\n".join([line for line in lines if "[info]" not in line][-12:])


class Node:
    """A RabbitMQ node on 127.0.0.1, all of its files in a folder.

    start() and end() may follow one another; what is in the folder survives them.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.name = f"orders-{secrets.token_hex(4)}@localhost"
        self.environment = {
            "HOME": str(folder),  # for the Erlang cookie
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd_port()),
            # Erlang shall not burn processor time while it waits, nor listen to other machines.
            "ERL_AFLAGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            **{f"RABBITMQ_{file}": f"{folder}/{file}" for file in FILES},
            "RABBITMQ_LOGS": "-",  # standard output
            "RUNNING_UNDER_SYSTEMD": "true",  # the start script becomes the node: end() hits it
        }

    def start(self) -> None:
        """Boot it, and wait until it listens: that is the last thing it does."""
        with (self.folder / "output").open("a") as output:
            self.process = subprocess.Popen(
                [*DIES_WITH_US, "rabbitmq-server"],
                cwd=self.folder,  # as a node that is killed may leave a dump
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

        def listens_or_ended() -> bool:
            return listens(self.port) or self.process.poll() is not None

        wait_until(listens_or_ended, "RabbitMQ", 3 * LIMIT, seen=lambda: log_end(self.folder))
        assert self.process.poll() is None, f"RabbitMQ did not start:\n{log_end(self.folder)}"

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it: at once, or by SIGTERM in good order."""
        process = self.process  # which another thread may replace, once it has ended
        process.send_signal(number)
        process.wait(3 * LIMIT)

    def command(self, program: str, *arguments: str) -> str:
        """Return what one of RabbitMQ's commands prints (it costs a second or two)."""
        command = [program, "-q", "-n", self.name, *arguments]
        return subprocess.check_output(
            command, cwd=self.folder, env=self.environment, text=True, timeout=3 * LIMIT
        )

    def url(self, vhost: str = "", user: str = "guest:guest") -> str:
        """Return an AMQP URL of the node; `user` with the password."""
        return f"amqp://{user}@127.0.0.1:{self.port}/{vhost}"


@contextlib.contextmanager
def running_node(definitions: dict | None = None) -> Iterator[Node]:
    """Start a node in a temporary folder, and kill it at the end, also after SIGTERM.

    `definitions` are as `rabbitmqctl export_definitions` writes them.
    """
    assert INSTALLED, "RabbitMQ is not installed: tests/run installs it"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt
    with tempfile.TemporaryDirectory(prefix="orders-") as folder:
        if definitions:
            Path(folder, "definitions.json").write_text(json.dumps(definitions))
            config = f"load_definitions = {folder}/definitions.json\n"
            Path(folder, "CONFIG_FILE.conf").write_text(config)
        node = Node(Path(folder))
        try:
            node.start()
            yield node
        finally:
            node.end()
            signal.signal(signal.SIGTERM, before)


def connect(url: str, heartbeat: int = 0) -> pika.BlockingConnection:
    """Connect. Without heartbeats, the connection may idle long."""
    return pika.BlockingConnection(pika.URLParameters(f"{url}?heartbeat={heartbeat}"))
