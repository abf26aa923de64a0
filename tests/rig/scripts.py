"""The two scripts as processes, as they are or changed, their output collected as it comes.

    with start_consumer(node, partial(work_takes, seconds=5)) as consumer:
        consumer.wait_for("Received .*A")
        consumer.stop()
    assert consumer.processed == ["A"]

Without changes start_producer() and start_consumer() run the file, as a user does. With some,
rig/changes.py imports the script in the new process, changes it, and calls its main().
"""

import base64
import contextlib
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from signal import SIGINT

import psutil

from rig.changes import Change, orders_are
from rig.network import Network
from rig.node import LIMIT, Node, free_port, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent

CLOCK = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ")  # before each line of a log
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "",  # as most users have it
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "PYTHONPATH": f"{TESTS}:{ROOT}",
}
started_programs: list["Program"] = []  # of which a failed test shows the output
Where = Node | Network | str  # a RabbitMQ, a way to it, or an AMQP URL


class Program:
    """A Python program as a process; it is killed at the end of a `with`.

    `lines` has its output, with the errors unless `stderr` leads them elsewhere. The clock of a
    log is taken off, into `moments`: time.time(), as `started` and `finished` are. With a `label`
    the lines are shown. Its standard input is a pipe, open until close_input().
    """

    def __init__(
        self,
        *arguments: object,
        label: str = "",
        stderr: int = subprocess.STDOUT,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = " ".join(map(str, arguments))
        self.label = label
        self.lines: list[str] = []
        self.moments: list[float] = []
        self._awaited = False  # whether somebody knows its exit status
        self.started = time.time()
        self.process = psutil.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        started_programs.append(self)

    def _read(self) -> None:
        with self.process.stdout as stream:
            for line in stream:
                text = line.decode("utf-8", "surrogateescape").rstrip("\n")
                if self.label:
                    print(f"{self.label} | {text}", flush=True)
                moment = time.time()
                if clock := CLOCK.match(text):
                    moment = datetime.fromisoformat(clock[1]).timestamp()
                    text = text[clock.end() :]
                self.moments.append(moment)  # first: whoever sees the line finds its moment
                self.lines.append(text)
        self.finished = time.time()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        died = self.ended() and self.process.returncode != 0 and not self._awaited
        if not self.ended():
            children = self.process.children(recursive=True)  # a tool has some, such as a node
            for process in (self.process, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.wait()
        self.close_input()
        assert kind or not died, f"ended by itself: {self!r}"

    def __repr__(self) -> str:
        return f"{self.name}, status {self.process.poll()}\n{self.out}"

    @property
    def out(self) -> str:
        """All its output."""
        return "\n".join(self.lines)

    @property
    def stored(self) -> list[str]:
        """The orders that a producer says are stored."""
        return self.texts("^INFO Stored '(.*)'")

    @property
    def received(self) -> list[str]:
        """The orders that a consumer says it has received."""
        return self.texts(r"""^INFO Received.* '{"order_id": "(.*?)",""")

    @property
    def redelivered(self) -> list[str]:
        """Those of them that it says came again."""
        return self.texts(r"""^INFO Received \(redelivered\) '{"order_id": "(.*?)",""")

    @property
    def processed(self) -> list[str]:
        """The orders that a consumer says it has processed."""
        return self.texts("^INFO Processed '(.*)'")

    @property
    def worked(self) -> list[str]:
        """The orders on which a changed consumer has ended its work, acknowledged or not."""
        return self.texts("^end (.*)")

    def _matches(self, pattern: str) -> list[tuple[re.Match[str], float]]:
        """Return the match, and the moment, of each line that the pattern fits."""
        seen = zip(list(self.lines), self.moments, strict=False)  # the reader may go on meanwhile
        found = [(re.search(pattern, line), moment) for line, moment in seen]
        return [(match, moment) for match, moment in found if match]

    def texts(self, pattern: str) -> list[str]:
        """Return group 1 of each line that the pattern fits."""
        return [match[1] for match, _ in self._matches(pattern)]

    def moments_of(self, pattern: str) -> list[float]:
        """Return when each of these lines was logged."""
        return [moment for _, moment in self._matches(pattern)]

    def count(self, pattern: str) -> int:
        """Return how many lines the pattern fits."""
        return len(self._matches(pattern))

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many lines fit; AssertionError, with all output, if they do not come."""

        def enough() -> bool:
            ended = not self._reader.is_alive()  # first, so that all it wrote is there then
            found = self.count(pattern) >= times
            assert found or not ended, f"ended without {pattern!r}: {self!r}"
            return found

        wait_until(enough, (pattern, self))

    def close_input(self) -> None:
        """Close its standard input: this opens the gate of rig.changes.work_waits()."""
        self.process.stdin.close()

    def signal(self, number: int = SIGINT) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ask_to_stop(self, number: int = SIGINT) -> None:
        """Send a consumer its first signal, and wait until it has answered."""
        self.signal(number)
        self.wait_for("^Stopping after the current order")

    def ended(self) -> bool:
        """Tell whether it has ended."""
        return bool(self.process.poll() is not None)

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end, and for the rest of its output; return the exit status."""
        try:
            status = self.process.wait(limit)
        except psutil.TimeoutExpired:
            raise AssertionError(f"still running after {limit:.0f} s: {self!r}") from None
        self._awaited = True
        self._reader.join(limit)
        return int(status)

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if not self.ended():
            self.process.kill()
        self.wait()

    def stop(self, number: int = SIGINT) -> None:
        """Let a consumer stop, and see that it does so in good order."""
        self.ask_to_stop(number)
        assert self.wait() == 0, self
        assert self.lines[-1] == "INFO Stopped", self


def start(
    script: str, where: Where, *changes: Change, label: str = "", stderr: int = subprocess.STDOUT
) -> Program:
    """Start producer.py or consumer.py with AMQP_URL, and else as Program says."""
    environment = {"AMQP_URL": where if isinstance(where, str) else where.url()}
    command: tuple[object, ...] = (ROOT / f"{script}.py",)
    if changes:
        command = ("-m", "rig.changes", script)
        environment["CHANGES"] = base64.b64encode(pickle.dumps(changes)).decode()
    return Program(*command, label=label, stderr=stderr, environment=environment)


def start_producer(
    where: Where, *changes: Change, orders: Sequence[str] = (), **options: object
) -> Program:
    """Start producer.py, with orders of these order_ids if there are any; else as start()."""
    if orders:
        changes += (partial(orders_are, list(orders)),)
    return start("producer", where, *changes, **options)  # type: ignore[arg-type]


start_consumer = partial(start, "consumer")


def run_consumer(where: Where, *changes: Change, until: str) -> Program:
    """Run consumer.py until it says something, then stop it."""
    with start_consumer(where, *changes) as consumer:
        consumer.wait_for(until)
        consumer.stop()
    return consumer


def run_producer(where: Where, *changes: Change, orders: Sequence[str] = ()) -> Program:
    """Run producer.py to its end, which has to be a good one."""
    with start_producer(where, *changes, orders=orders) as producer:
        assert producer.wait() == 0
    return producer


def nowhere() -> str:
    """Return the AMQP URL of a port at which nothing listens."""
    return f"amqp://127.0.0.1:{free_port()}"
