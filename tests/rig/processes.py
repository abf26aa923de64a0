"""The two scripts as processes, as they are or changed, and what they log."""

import os
import re
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from signal import SIGINT, SIGKILL

from rig.node import DIES_WITH_US, LIMIT, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
PRODUCER, CONSUMER = ROOT / "producer.py", ROOT / "consumer.py"
PRODUCER_OF_MANY = TESTS / "changed/producer_of_many.py"  # PREFIX COUNT ATTEMPTS
WORKER = TESTS / "changed/worker.py"  # a consumer: [PAUSE [early | auto]]

CLOCK = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ")  # before each line of a log
ENVIRONMENT = {
    **os.environ,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "RES_OPTIONS": "timeout:1 attempts:1",  # so that an unknown host is soon found to be one
    "PYTHONPATH": f"{TESTS}:{ROOT}",
}
started_programs: list["Program"] = []  # of which a failed test shows the log


class Program:
    """A Python program as a process; it is killed at the end of a `with`.

    `errors` is a pattern: a line with ERROR that it fits has to come, and no other line with
    ERROR may come. None lets all of them pass.
    """

    def __init__(
        self, path: Path, amqp_url: str, *arguments: object, errors: str | None = ""
    ) -> None:
        self.name = " ".join(map(str, [path.name, *arguments]))
        self.errors = errors
        self.log: list[str] = []  # what it has said, on both streams
        self.started, self.ended = time.time(), 0.0  # the latter when wait() has seen it
        self.process = subprocess.Popen(
            [*DIES_WITH_US, sys.executable, path, *map(str, arguments)],
            env={**ENVIRONMENT, "AMQP_URL": amqp_url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        started_programs.append(self)

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                self.log.append(line.decode(errors="backslashreplace").removesuffix("\n"))

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.process.kill()  # if it still runs
        self.wait()
        if not kind:
            self._see_no_other_errors()
            assert not self.errors or self.count(self.errors), f"{self.name}: no {self.errors!r}"

    @property
    def lines(self) -> list[str]:
        """What it has said, without the log's clock."""
        return [CLOCK.sub("", line) for line in self.log]

    def orders(self, said: str) -> list[str]:
        """Return the order_ids in lines such as "Received 'A'"."""
        return self.texts(f"^INFO {said} '(.*?)'")

    def texts(self, pattern: str) -> list[str]:
        """Return group 1 of each line that the pattern fits."""
        return [found[1] for line in self.lines if (found := re.search(pattern, line))]

    def count(self, pattern: str) -> int:
        """Return how many lines the pattern fits."""
        return sum(bool(re.search(pattern, line)) for line in self.lines)

    def moments(self, pattern: str) -> list[float]:
        """Return when these lines were logged, as time.time() tells it."""
        lines = [line for line in self.log if re.search(pattern, line)]
        clocks = [CLOCK.search(line) for line in lines]
        assert all(clocks), f"a line without a clock: {lines}"
        return [datetime.fromisoformat(clock[1]).timestamp() for clock in clocks if clock]

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many lines fit; fail at once if they cannot come any more."""

        def there() -> bool:
            ended = not self._reader.is_alive()  # asked first, so that all it said is there
            if self.count(pattern) >= times:
                return True
            self._see_no_other_errors()
            assert not ended, f"{self.name} ended without {pattern!r}"
            return False

        wait_until(there, f"{pattern!r} from {self.name}")

    def _see_no_other_errors(self) -> None:
        if self.errors is None:
            return
        for line in self.lines:
            expected = self.errors and re.search(self.errors, line)
            assert expected or not line.startswith("ERROR"), f"{self.name} said: {line}"

    def let_work_end(self) -> None:
        """Let the work on an order that waits (changed/worker.py) go on."""
        assert self.process.stdin
        self.process.stdin.close()

    def send(self, number: int) -> None:
        """Send it a signal, and wait until its handler has run: it takes itself away."""

        def taken() -> bool:  # see man 5 proc
            assert self.process.poll() is None, f"{self.name} has ended"
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            (caught,) = re.findall(r"SigCgt:\s*(\w+)", status)
            return not int(caught, 16) >> (number - 1) & 1

        self.process.send_signal(number)
        wait_until(taken, f"{self.name} to take signal {number}")

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end; return the exit status."""
        wait_until(lambda: self.process.poll() is not None, f"{self.name} to end", limit)
        self.ended = self.ended or time.time()
        self._reader.join()
        self.let_work_end()
        return self.process.wait()

    def kill(self, number: int = SIGKILL) -> None:
        """Send it a signal, and see that it dies of it."""
        self.process.send_signal(number)
        status = self.wait()
        assert status == -number, f"{self.name} ended with status {status}"

    def stop(self) -> None:
        """Let a consumer stop, and see that it does so in good order."""
        self.process.send_signal(SIGINT)
        assert self.wait() == 0
        assert self.lines[-1] == "INFO Stopped"


def run(
    path: Path, amqp_url: str, *arguments: object, until: str = "", errors: str = ""
) -> Program:
    """Run a producer to its end, or a consumer until it says something; it has to end well."""
    with Program(path, amqp_url, *arguments, errors=errors) as program:
        if until:
            program.wait_for(until)
            program.stop()
        assert program.wait() == 0
    return program
