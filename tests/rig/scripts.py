"""The two scripts as processes, as they are or changed, their output collected as it comes.

    with start_consumer(node, partial(work_takes, seconds=5)) as consumer:
        consumer.wait_for("Received 'A'")
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
from datetime import datetime
from functools import partial
from pathlib import Path
from signal import SIGINT

import psutil

from rig.changes import Change
from rig.network import Network
from rig.node import LIMIT, Node, free_ports, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent

ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "",  # as most users have it
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "PYTHONPATH": f"{TESTS}:{ROOT}",
}
started_programs: list["Program"] = []  # of which a failed test shows the output
Where = Node | Network | str | None  # a RabbitMQ, a way to it, an AMQP URL, or the default


class Program:
    """A Python program as a process; it is killed at the end of a `with`.

    `lines` has its output, with the errors unless `stderr` leads them elsewhere, and `moments`
    when (time.time()): by the log's own clock, or when a line came that has none. `started` and
    `finished` are such moments, too. With a `label` the lines are shown. Its standard input is
    a pipe, open until close_input().
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
                clock = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", text)
                moment = datetime.fromisoformat(clock[0][:-1]).timestamp() if clock else time.time()
                self.moments.append(moment)  # first: whoever sees the line finds its moment
                self.lines.append(text)
                if self.label:
                    print(f"{self.label} | {text}", flush=True)
        self.finished = time.time()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended():
            children = self.process.children(recursive=True)  # a tool has some, such as a node
            for process in (self.process, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.wait()
        self.close_input()

    def __repr__(self) -> str:
        return f"{self.name}, status {self.process.poll()}\n{self.out}"

    @property
    def out(self) -> str:
        """All its output."""
        return "\n".join(self.lines)

    @property
    def stored(self) -> list[str]:
        """The orders that a producer says are stored."""
        return self.texts("Stored '(.*)'")

    @property
    def processed(self) -> list[str]:
        """The orders that a consumer says it has processed."""
        return self.texts("Processed '(.*)'")

    @property
    def worked(self) -> list[str]:
        """The orders on which a changed consumer has ended its work, acknowledged or not."""
        return self.texts("^end (.*)")

    def seen(self, pattern: str) -> list[tuple[str, float]]:
        """Return (group 1, moment) of each line that the pattern matches."""
        found = []
        for line, moment in zip(list(self.lines), self.moments, strict=False):
            if match := re.search(pattern, line):
                found.append((match[1], moment))
        return found

    def texts(self, pattern: str) -> list[str]:
        """Return group 1 of each line that the pattern matches."""
        return [text for text, _ in self.seen(pattern)]

    def count(self, pattern: str) -> int:
        """Return how many lines the pattern matches."""
        return len(self.seen(f"({pattern})"))

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many lines match; AssertionError, with all output, if they do not."""

        def matches() -> bool:
            ended = not self._reader.is_alive()  # first, so that all it wrote is there then
            enough = self.count(pattern) >= times
            assert enough or not ended, f"ended without {pattern!r}: {self!r}"
            return enough

        wait_until(matches, (pattern, self))

    def close_input(self) -> None:
        """Close its standard input: this opens the gate of rig.changes.work_waits()."""
        self.process.stdin.close()

    def signal(self, number: int = SIGINT) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ask_to_stop(self, number: int = SIGINT) -> None:
        """Send a consumer its first signal, and wait until it has handled that."""
        self.signal(number)
        wait_until(lambda: not self._handles(number), "the signal to be handled")

    def _handles(self, number: int) -> bool:
        """Tell whether the process has a handler for the signal (Linux says so in /proc)."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:  # it has ended
            return False
        caught = int(re.findall(r"SigCgt:\s*(\w+)", status)[0], base=16)
        return caught & (1 << (number - 1)) != 0

    def ended(self) -> bool:
        """Tell whether it has ended."""
        return bool(self.process.poll() is not None)

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end, and for the rest of its output; return the exit status."""
        try:
            status = self.process.wait(limit)
        except psutil.TimeoutExpired:
            raise AssertionError(f"still running after {limit:.0f} s: {self!r}") from None
        self._reader.join(limit)
        return int(status)

    def stop(self, number: int = SIGINT) -> None:
        """Let a consumer stop, and see that it does so in good order."""
        self.ask_to_stop(number)
        assert self.wait() == 0, self
        assert self.lines[-1].endswith(" Stopped"), self


def start(
    script: str,
    where: Where,
    *changes: Change,
    label: str = "",
    stderr: int = subprocess.STDOUT,
    environment: dict[str, str] | None = None,
) -> Program:
    """Start producer.py or consumer.py with AMQP_URL, and else as Program says."""
    environment = dict(environment or {})
    if where is not None:
        environment["AMQP_URL"] = where if isinstance(where, str) else where.url()
    command: tuple[object, ...] = (ROOT / f"{script}.py",)
    if changes:
        command = ("-m", "rig.changes", script)
        environment["CHANGES"] = base64.b64encode(pickle.dumps(changes)).decode()
    return Program(*command, label=label, stderr=stderr, environment=environment)


start_producer = partial(start, "producer")
start_consumer = partial(start, "consumer")


def nowhere() -> str:
    """Return the AMQP URL of a port at which nothing listens."""
    return f"amqp://127.0.0.1:{free_ports(1)[0]}"
