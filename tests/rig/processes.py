"""The two scripts as processes, as they are or changed, and what they log.

with start_consumer(node, work="gate") as consumer:
    consumer.wait_for("Received 'A'")
    consumer.open_gate()
    consumer.stop()
assert consumer.processed == ["A"]
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from signal import SIGINT, SIGKILL

from rig.network import Network
from rig.node import LIMIT, Node, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT, CHANGED = TESTS.parent, TESTS / "changed"
Where = Node | Network | str  # a RabbitMQ, a way to it, or an AMQP URL

CLOCK = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ")  # before each line of a log
ENVIRONMENT = {
    **os.environ,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "PYTHONPATH": f"{TESTS}:{ROOT}",
}
started_programs: list["Program"] = []  # of which a failed test shows the log


class Program:
    """A Python program as a process; it is killed at the end of a `with`.

    `errors` is a pattern of the lines with ERROR that are expected: any other fails the test.
    """

    def __init__(
        self, path: Path, *arguments: object, amqp_url: str = "", errors: str = ""
    ) -> None:
        self.name = " ".join(map(str, [path.name, *arguments]))
        self.errors = errors
        self.started, self.ended = time.time(), 0.0  # the latter when wait() has seen it
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 (conftest.py closes it)
        self.process = subprocess.Popen(
            [sys.executable, path, *map(str, arguments)],
            env={**ENVIRONMENT, "AMQP_URL": amqp_url},
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        started_programs.append(self)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        known = bool(self.ended)  # whether somebody knows how it ended
        self.process.kill()  # if it still runs
        status = self.wait()
        if not kind:
            self._see_no_other_errors()
            assert known or status in (0, -SIGKILL), f"{self.name} ended with status {status}"

    def _log(self) -> list[str]:
        size = os.fstat(self.output.fileno()).st_size
        text = os.pread(self.output.fileno(), size, 0).decode(errors="backslashreplace")
        return text.split("\n")[:-1]  # without a line that is being written

    @property
    def lines(self) -> list[str]:
        """What it has said, on both streams, without the log's clock."""
        return [CLOCK.sub("", line) for line in self._log()]

    @property
    def stored(self) -> list[str]:
        """The orders that a producer says are stored."""
        return self.texts("^INFO Stored (.*)")

    @property
    def received(self) -> list[str]:
        """The orders that a consumer says it has received."""
        return self.texts("^INFO Received '(.*)'")

    @property
    def redelivered(self) -> list[str]:
        """Those of them that it says were redelivered."""
        return self.texts(r"^INFO Received '(.*)' \(redelivered\)$")

    @property
    def processed(self) -> list[str]:
        """The orders that a consumer says it has processed."""
        return self.texts("^INFO Processed '(.*)'")

    def texts(self, pattern: str) -> list[str]:
        """Return group 1 of each line that the pattern fits."""
        return [found[1] for line in self.lines if (found := re.search(pattern, line))]

    def count(self, pattern: str) -> int:
        """Return how many lines the pattern fits."""
        return sum(bool(re.search(pattern, line)) for line in self.lines)

    def moments(self, pattern: str) -> list[float]:
        """Return when these lines were logged, as time.time() tells it."""
        clocks = [CLOCK.search(line) for line in self._log() if re.search(pattern, line)]
        return [datetime.fromisoformat(clock[1]).timestamp() for clock in clocks if clock]

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many lines fit; fail at once if they cannot come any more."""

        def there() -> bool:
            ended = self.process.poll() is not None  # asked first, so that all it said is there
            if self.count(pattern) >= times:
                return True
            self._see_no_other_errors()
            assert not ended, f"{self.name} ended without {pattern!r}"
            return False

        wait_until(there, f"{pattern!r} from {self.name}")

    def _see_no_other_errors(self) -> None:
        for line in self.lines:
            expected = self.errors and re.search(self.errors, line)
            assert expected or not line.startswith("ERROR"), f"{self.name} said: {line}"

    def open_gate(self) -> None:
        """Let the work="gate" of changed/consumer_with.py end."""
        assert self.process.stdin
        self.process.stdin.close()

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end; return the exit status."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {limit} s") from None
        self.ended = self.ended or time.time()
        self.open_gate()
        return status

    def kill(self, number: int = SIGKILL) -> None:
        """Send it a signal, and see that it dies of it."""
        self.send(number)
        status = self.wait()
        assert status == -number, f"{self.name} ended with status {status}"

    def stop(self, number: int = SIGINT) -> None:
        """Let a consumer stop, and see that it does so in good order."""
        self.send(number)
        assert self.wait() == 0
        assert self.lines[-1] == "INFO Stopped"


def start_script(script: str, changed: str, where: Where, change: dict, errors: str) -> Program:
    """Start a script that shall find RabbitMQ there; if there is a change, a changed script."""
    amqp_url = where if isinstance(where, str) else where.url()
    if not change:
        return Program(ROOT / script, amqp_url=amqp_url, errors=errors)
    return Program(CHANGED / changed, json.dumps(change), amqp_url=amqp_url, errors=errors)


def start_producer(where: Where, errors: str = "", **change: object) -> Program:
    """Start producer.py; with a change changed/producer_of_many.py."""
    return start_script("producer.py", "producer_of_many.py", where, change, errors)


def start_consumer(where: Where, errors: str = "", **change: object) -> Program:
    """Start consumer.py; with a change changed/consumer_with.py."""
    return start_script("consumer.py", "consumer_with.py", where, change, errors)


def run_producer(where: Where, errors: str = "", **change: object) -> Program:
    """Run a producer to its end, which has to be a good one."""
    with start_producer(where, errors, **change) as producer:
        assert producer.wait() == 0
    return producer


def run_consumer(where: Where, until: str, errors: str = "", **change: object) -> Program:
    """Run a consumer until it says something, then stop it."""
    with start_consumer(where, errors, **change) as consumer:
        consumer.wait_for(until)
        consumer.stop()
    return consumer
