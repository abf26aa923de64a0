"""Programs as processes, and what they log."""

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

from rig.node import DIES_WITH_US, LIMIT, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
PRODUCER, CONSUMER, WORKER = ROOT / "producer.py", ROOT / "consumer.py", TESTS / "rig/worker.py"
IMPORTER = TESTS / "rig/importer.py"
# Log and signals belong to the program, not to what it imports.
PROGRAMS_OWN = ["signal.signal", "logging.basicConfig", "logging.Logger.setLevel"]
CLOCK = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", re.M)  # begins each record of a log
WITH_TRACEBACK = ("ERROR Failed", "ERROR Trying again")  # such a record may have more lines
ENVIRONMENT = {  # nothing of the user's
    "AMQP_URL": "amqp://127.0.0.1:1",  # where nobody listens
    "PATH": os.environ["PATH"],
    "TMPDIR": os.environ.get("TMPDIR", "/tmp"),  # which tests/run removes
    "LC_ALL": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",  # what a program has printed is seen even if it is killed
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "PYTHONPATH": f"{TESTS}:{ROOT}",
}


class Program:
    """A Python program as a process; it is killed at the end of a `with`.

    On standard error, it may log lines of level INFO, and records whose first line the pattern
    `may_say` fits. If it says anything else, the test fails: all that waits for the program notices
    it, or its end.
    """

    def __init__(self, path: Path, url: str, *arguments: object, may_say: str = "^INFO ") -> None:
        self.name = " ".join(map(str, [path.name, *arguments]))
        self._may_say = f"^INFO |{may_say}"
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [*DIES_WITH_US, sys.executable, path, *map(str, arguments)],
            env={**ENVIRONMENT, "AMQP_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.process as process:  # it closes the pipes
            for line in process.stderr:
                self._lines.append(line)
            self._printed = process.stdout.read()

    @property
    def log(self) -> str:
        """What it has written, in whole lines."""
        return "".join(self._lines)

    @property
    def records(self) -> list[str]:
        """The records of the log without the clock; one can have several lines."""
        return [record.removesuffix("\n") for record in CLOCK.split(self.log) if record]

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.process.kill()  # if it still runs
        self._reader.join()
        logging.info("%s:\n%s", self.name, self.log[-20_000:])  # shown with a test that failed
        if not kind:
            self.check()
            assert not self._printed, f"{self.name} printed: {self._printed}"

    def check(self) -> None:
        for record in self.records:
            first, *more = record.split("\n")
            assert re.search(self._may_say, first), f"{self.name} said: {record}"
            assert not more or first.startswith(WITH_TRACEBACK), f"{self.name} said: {record}"

    def orders(self, said: str) -> list[str]:
        """Return the order_ids: "Received 'A'" or 'RabbitMQ confirmed {"order_id": "A"…'."""
        return re.findall(rf"(?m)INFO {said} (?:'|{{\"order_id\": \")([^'\"]*)", self.log)

    def count(self, pattern: str) -> int:
        """Return how many records the pattern fits."""
        return sum(bool(re.search(pattern, record)) for record in self.records)

    def wait_until(self, condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
        """Wait; fail at once if it ends before, or says what it may not."""

        def met() -> object:
            ended = not self._reader.is_alive()  # asked first, so that all it said is there
            self.check()
            found = condition()
            assert found or not ended, f"{self.name} ended before {what}"
            return found

        wait_until(met, f"{self.name}: {what}", lambda: self.log[-1_000:], limit)

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many records fit."""
        self.wait_until(lambda: self.count(pattern) >= times, f"{times} x {pattern!r}")

    def let_work_end(self) -> None:
        """Let the work on an order that waits (worker.py) go on."""
        self.process.stdin.close()

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end; return the exit status."""
        self.wait_until(lambda: not self._reader.is_alive(), "its end", limit)
        return self.process.wait()

    def kill(self, number: int = SIGKILL) -> None:
        """Send it a signal, and see that it dies of it at once."""
        self.process.send_signal(number)
        assert self.wait(15) == -number, f"{self.name} ended with {self.process.returncode}"
