"""A RabbitMQ node of the tests' own, and how to wait for something."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep  # as a test may replace time.sleep

import pika

LIMIT = 90  # seconds: far more than anything here takes, on a slow machine, too
# RabbitMQ's programs come before Debian's wrappers, and this Python before others.
PATH = f"/usr/lib/rabbitmq/bin:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
# What RabbitMQ would otherwise look for, or keep, where a user's own server does.
FILES = ["CONFIG_FILE", "CONFIG_FILES", "ADVANCED_CONFIG_FILE", "CONF_ENV_FILE"]
FILES += ["ENABLED_PLUGINS_FILE", "MNESIA_BASE", "LOG_BASE"]
KILL_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]  # in front of a command


def wait_until(look: Callable[[], object], expected: object = True, what: str = "") -> None:
    """Call `look` again and again until it returns what is expected."""
    deadline = monotonic() + LIMIT
    while (seen := look()) != expected:
        assert monotonic() < deadline, f"{what} still {seen!r} after {LIMIT} s, not {expected!r}"
        sleep(0.02)


def reserve_port() -> int:
    """Return a free port that nobody else gets, not even while its node is down."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a node may listen there
        os.dup(one.fileno())  # so that it stays bound as long as this process lives
        return int(one.getsockname()[1])


class Node:
    """A RabbitMQ node on 127.0.0.1, its files in a folder; start() and stop() may alternate."""

    def __init__(self, folder: str) -> None:
        self.folder, self._log, self.port = folder, Path(folder, "log"), reserve_port()
        self.url = f"amqp://127.0.0.1:{self.port}"  # as guest
        self.environment = {
            "HOME": folder,  # for the Erlang cookie
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(reserve_port()),
            "ERL_AFLAGS": "+sbwt none +sbwtdcpu none +sbwtdio none "  # no busy waiting
            "-kernel inet_dist_use_interface {127,0,0,1}",  # not for other machines
            "ERL_CRASH_DUMP": f"{folder}/dump",
            "RABBITMQ_NODENAME": "orders@localhost",  # each node has a port mapper of its own
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(reserve_port()),
            **{f"RABBITMQ_{file}": f"{folder}/{file}" for file in FILES},
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-rabbit quorum_tick_interval 500 "  # not 5 s
            "-rabbit dead_letter_worker_publisher_confirm_timeout 1000",  # not three minutes
            "RABBITMQ_LOGS": "-",  # standard output
            "RUNNING_UNDER_SYSTEMD": "true",  # the start script becomes the node: stop() hits it
        }

    def start(self) -> None:
        """Boot the node, and wait until its log says that it is ready, also for rabbitmqctl."""
        # A port mapper (epmd) that Erlang starts would outlive the node.
        epmd = "until epmd -names; do setpriv --pdeathsig KILL epmd & sleep 0.1; done"
        command = [*KILL_WITH_PARENT, "sh", "-c", f"{epmd}; exec rabbitmq-server"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        ready = b"Server startup complete"
        wait_until(lambda: ready in self._log.read_bytes() or self.process.poll() is not None)
        assert self.process.poll() is None, f"RabbitMQ did not start:\n{self.log_end()}"

    def stop(self, signum: int = signal.SIGKILL) -> None:
        """End the node: at once, or by SIGTERM in good order."""
        self.process.send_signal(signum)
        self.process.wait(LIMIT)

    def log_end(self) -> str:
        """Return the last warnings and errors of the node's log."""
        records = re.split(r"(?m)^(?=\d{4}-)", self._log.read_text(errors="replace"))
        return "".join([record for record in records if "[info]" not in record][-12:])


@contextlib.contextmanager
def running_node() -> Iterator[Node]:
    """Start a node; at the end, also after SIGTERM, kill it and remove its files."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt
    with tempfile.TemporaryDirectory(prefix="orders-") as folder:
        node = Node(folder)
        try:
            node.start()
            yield node
        finally:
            node.stop()


def connect(url: str) -> pika.BlockingConnection:
    """Connect without heartbeats: pika sends none while a test waits for something else."""
    return pika.BlockingConnection(pika.URLParameters(f"{url}?heartbeat=0"))
