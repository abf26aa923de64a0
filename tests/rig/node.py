"""A RabbitMQ node of the tests' own, and how to wait for it."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep  # as a test may replace time.sleep

import pika

LIMIT = 60  # seconds: far more than anything here takes, on a slow machine, too
PATH = f"/usr/lib/rabbitmq/bin:{os.environ['PATH']}"  # before Debian's wrappers
# What RabbitMQ would otherwise look for, or keep, where a user's own server does.
FILES = ["CONFIG_FILE", "CONFIG_FILES", "ADVANCED_CONFIG_FILE", "CONF_ENV_FILE"]
FILES += ["ENABLED_PLUGINS_FILE", "MNESIA_BASE", "LOG_BASE"]
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"]  # a command after it, even if we are killed


def wait_until(condition: Callable, what: str, seen: Callable = str, limit: float = LIMIT) -> None:
    """Wait until `condition` returns something true. The error says what `seen` returns then."""
    deadline = monotonic() + limit
    while not condition():
        assert monotonic() < deadline, f"waited {limit} s for {what}; seen: {seen()}"
        sleep(0.02)


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


class Node:
    """A RabbitMQ node on 127.0.0.1, its files in a folder; start() and end() may alternate."""

    process: subprocess.Popen[bytes]

    def __init__(self, folder: str, epmd_port: int) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
        self.environment = {
            "HOME": folder,  # for the Erlang cookie
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd_port),
            # Erlang shall not burn processor time while it waits, nor listen to other machines.
            "ERL_AFLAGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_NODENAME": "orders@localhost",  # each node has a port mapper of its own
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            **{f"RABBITMQ_{file}": f"{folder}/{file}" for file in FILES},
            # What rabbitmqctl tells of a quorum queue shall lag less than five seconds. A disk that
            # is almost full shall not block who publishes.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-rabbit quorum_tick_interval 500 "
            "-rabbit disk_free_limit 1000000 "
            "-rabbit dead_letter_worker_publisher_confirm_timeout 1000",
            "ERL_CRASH_DUMP": f"{folder}/dump",
            "RABBITMQ_LOGS": "-",  # standard output
            "RUNNING_UNDER_SYSTEMD": "true",  # the start script becomes the node: end() hits it
        }

    def start(self) -> None:
        """Boot it, and wait until its log says that it is ready, also for rabbitmqctl."""
        with open(f"{self.folder}/output", "ab") as output:
            before = output.tell()
            self.process = subprocess.Popen(
                [*DIES_WITH_US, "rabbitmq-server"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

        def ready_or_ended() -> bool:
            log = Path(self.folder, "output").read_bytes()[before:]
            return b"Server startup complete" in log or not self.runs()

        wait_until(ready_or_ended, "RabbitMQ", self.log_end, 2 * LIMIT)
        assert self.runs(), f"RabbitMQ did not start:\n{self.log_end()}"

    def runs(self) -> bool:
        return self.process.poll() is None

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it: at once, or by SIGTERM in good order."""
        process = self.process  # which another thread may replace, once it has ended
        process.send_signal(number)
        process.wait(LIMIT)

    def log_end(self) -> str:
        """Return its last warnings and errors."""
        lines = Path(self.folder, "output").read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if "[info]" not in line][-12:])

    def rabbitmqctl(self, *arguments: str) -> str:
        """Return what RabbitMQ's command prints (it costs a second or two)."""
        command = ["rabbitmqctl", "-q", *arguments]
        return subprocess.check_output(command, env=self.environment, text=True, timeout=LIMIT)


@contextlib.contextmanager
def running_node() -> Iterator[Node]:
    """Start a node; at the end, also after SIGTERM, kill it and remove its files."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt
    # Without this port mapper, Erlang would start one, and leave it running.
    port = free_port()
    command = [*DIES_WITH_US, "epmd", "-address", "127.0.0.1", "-port", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="orders-") as folder,
        subprocess.Popen(command, env={"PATH": PATH}, stderr=subprocess.DEVNULL) as epmd,
    ):
        wait_until(lambda: listens(port), "epmd")
        node = Node(folder, port)
        try:
            node.start()
            yield node
        finally:
            epmd.kill()
            node.end()
            logging.info(node.log_end())  # pytest shows it with a test that failed


def connect(url: str) -> pika.BlockingConnection:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0  # pika sends none while a test waits for something else
    parameters.blocked_connection_timeout = LIMIT
    return pika.BlockingConnection(parameters)
