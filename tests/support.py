"""What the tests and the demo stand on: a private RabbitMQ node, and the two scripts as processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Type, TypeVar
from urllib.parse import quote

import pika
import port_for
from pytest_rabbitmq.factories.executor import RabbitMqExecutor

ROOT = Path(__file__).resolve().parent.parent
CONSUMER = ROOT / "consumer.py"
PRODUCER = ROOT / "producer.py"
LIMIT = 60.0  # seconds: far more than anything here takes on a slow machine

Result = TypeVar("Result")


def wait_until(condition: Callable[[], Optional[Result]], what: str, limit: float = LIMIT) -> Result:
    """Return the first true value of `condition`; AssertionError after `limit` seconds without one."""
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {limit:.0f} s in vain: {what}"
        time.sleep(0.02)


def server_program(name: str) -> str:
    """Return the path of one of RabbitMQ's programs, the distribution's real one before its wrapper."""
    found = shutil.which(name, path="/usr/lib/rabbitmq/bin") or shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name} is not installed: tests/run installs it, or says how")
    return found


class Broker(RabbitMqExecutor):
    """A RabbitMQ node of our own, on free ports of 127.0.0.1, all of its files in `folder`.

    `config` is the text of its rabbitmq.conf. start(), stop() and kill() may follow one another in
    any order; what is in `folder` survives them.
    """

    def __init__(self, folder: Path, config: str = "", **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(config)
        port, distribution_port, self.epmd_port = free_ports(3)
        self.node_name = f"orders-{port}@localhost"
        super().__init__(
            server_program("rabbitmq-server"),
            "127.0.0.1",
            port,
            distribution_port,
            server_program("rabbitmqctl"),
            logpath=folder / "log",
            path=folder,
            plugin_path=folder,
            node_name=self.node_name,
        )
        self._cwd = str(folder)  # where a node that is killed may leave a dump
        self._stdout = self._stderr = subprocess.DEVNULL
        self._envvars.update(
            HOME=str(folder),  # for the Erlang cookie
            ERL_EPMD_PORT=str(self.epmd_port),  # an epmd of its own, which ends with the node
            ERL_EPMD_ADDRESS="127.0.0.1",
            RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
            RABBITMQ_PID_FILE=str(folder / "pid"),
            RABBITMQ_CONFIG_FILE=str(folder / "rabbitmq.conf"),
            RABBITMQ_CONF_ENV_FILE=os.devnull,
            RUNNING_UNDER_SYSTEMD="true",  # so the start script becomes the broker: kill() hits it
        )
        self._envvars.update(environment)

    def url(self, user: str = "guest", password: str = "guest", vhost: str = "/", query: str = "") -> str:
        """Return an AMQP URL of the node."""
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{quote(vhost, safe='')}{query}"

    def connect(self) -> pika.BlockingConnection:
        """Return a connection of the test's own."""
        return pika.BlockingConnection(pika.URLParameters(self.url()))

    def is_alive(self) -> bool:
        """Tell whether the node lets a client in."""
        try:
            self.connect().close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True


def free_ports(count: int) -> List[int]:
    """Return different free ports outside the range that outgoing connections draw theirs from."""
    ports: List[int] = []
    while len(ports) < count:
        ports.append(port_for.select_random(exclude_ports=ports))
    return ports


class Script:
    """consumer.py or producer.py (or any program) as a process, its output collected as it comes.

    Use it as a context manager: it is killed at the end if it still runs. With a label its lines are
    shown as well, the label before each.
    """

    def __init__(
        self,
        *arguments: object,
        url: Optional[str] = None,
        stdin: Optional[bytes] = None,
        python: bool = True,
        label: str = "",
        **environment: str,
    ) -> None:
        self.environment: Dict[str, str] = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        if url is not None:
            self.environment["AMQP_URL"] = url
        self.label = label
        self.lines: Dict[str, List[str]] = {"stdout": [], "stderr": []}
        self.arrivals: Dict[str, List[float]] = {name: [] for name in self.lines}  # of the lines, monotonic
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*([sys.executable] if python else []), *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.lines
        ]
        for reader in self._readers:
            reader.start()
        if stdin is not None:
            assert self.process.stdin
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as stream:
            for line in stream:
                self.arrivals[name].append(time.monotonic())  # first: who sees the line sees this too
                text = line.decode("utf-8", "surrogateescape").rstrip("\n")
                self.lines[name].append(text)
                if self.label:
                    print(f"{self.label} | {text}", flush=True)

    def __enter__(self) -> "Script":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.process.kill()
        self.wait()

    @property
    def out(self) -> str:
        return "\n".join(self.lines["stdout"])

    @property
    def err(self) -> str:
        return "\n".join(self.lines["stderr"])

    def wait_for(self, pattern: str, stream: str = "stdout", limit: float = LIMIT) -> "re.Match[str]":
        """Wait until a line matches the pattern; AssertionError, with all output, if none comes."""

        def match() -> Optional["re.Match[str]"]:
            matches = (re.search(pattern, line) for line in list(self.lines[stream]))
            found = next(filter(None, matches), None)
            if not found and self.process.poll() is not None and not self._reading():
                raise AssertionError(f"ended without {pattern!r}: {self!r}")
            return found

        try:
            return wait_until(match, pattern, limit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self!r}") from None

    def _reading(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def signal(self, number: int = signal.SIGINT) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end, and for the rest of its output; return the exit status."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit:.0f} s: {self!r}") from None
        for reader in self._readers:
            reader.join(limit)
        return status

    def __repr__(self) -> str:
        head = f"{self.process.args!r}, status {self.process.poll()}"
        return f"{head}\n--stdout\n{self.out}\n--stderr\n{self.err}"


def consumer(broker: Broker, *arguments: object, **options: Any) -> Script:
    """Start consumer.py against the broker."""
    return Script(CONSUMER, *arguments, **{"url": broker.url(), **options})


def producer(broker: Broker, *arguments: object, **options: Any) -> Script:
    """Start producer.py against the broker."""
    return Script(PRODUCER, *arguments, **{"url": broker.url(), **options})


def end_with_broken_pipe(script: Path, broker: Broker) -> Tuple[int, bytes]:
    """Run a script whose standard output nobody reads any more; return its exit status and standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "AMQP_URL": broker.url()}
    run = subprocess.run([sys.executable, script], env=environment, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    return run.returncode, run.stderr


def messages(channel: Any, queue: str) -> Iterator[Any]:
    """Take what is in the queue, acknowledging it: (method, properties, body) of each."""
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return
        yield method, properties, body


def ready(channel: Any, queue: str = "orders") -> int:
    """Return how many messages wait in the queue, those that are with a consumer not among them."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)
