"""Programs as processes, and what they log."""

import logging
import os
import re
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

from rig.node import KILL_WITH_PARENT, LIMIT, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
PRODUCER, CONSUMER, WORKER = ROOT / "producer.py", ROOT / "consumer.py", TESTS / "rig/worker.py"
NOBODY = "amqp://127.0.0.1:1"  # where nobody listens
CLOCK = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", re.M)  # begins each record of a log
ENVIRONMENT = {  # nothing of the user's
    "AMQP_URL": NOBODY,
    "PATH": os.environ["PATH"],
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "PYTHONPATH": f"{ROOT}:{TESTS}",
}


class Program(AbstractContextManager):
    """A Python program as a process, which is killed at the end of a `with`.

    Its log is what it writes to standard error: records of level INFO, and those that the pattern
    `allowed` fits. After anything else, wait_for() fails at once, or the `with` fails at its end.
    """

    def __init__(self, path: Path, url: str, allowed: str = "") -> None:
        self.name, self.log = path.name, ""  # the log has whole lines
        self._allowed = f"INFO .*|{allowed}"
        command = [*KILL_WITH_PARENT, sys.executable, path]
        environment = {**ENVIRONMENT, "AMQP_URL": url}
        self.process = Popen(
            command, env=environment, stdin=PIPE, stdout=DEVNULL, stderr=PIPE, encoding="utf-8"
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.process as process:  # it closes the pipes
            for line in process.stderr:
                self.log += line

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # if it still runs
        self._reader.join()
        logging.info("%s:\n%s", self.name, self.log[-20_000:])  # shown with a test that failed
        self.checked_records()

    def checked_records(self) -> list[str]:
        """Return the log's records without the clock; fail if one of them is not allowed."""
        records = [record.removesuffix("\n") for record in CLOCK.split(self.log) if record]
        for record in records:
            assert re.fullmatch(self._allowed, record), f"{self.name} logged: {record}"
        return records

    def order_ids(self, verb: str) -> list[str]:
        """Return the order_ids of "Received 'A'" or of 'RabbitMQ confirmed {"order_id": "A"…'."""
        return re.findall(rf"(?m)INFO {verb} (?:'|{{\"order_id\": \")([^'\"]*)", self.log)

    def count(self, pattern: str) -> int:
        """Return how many records the pattern fits."""
        return sum(bool(re.search(pattern, record)) for record in self.checked_records())

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many records fit; fail at once if the program ends before."""
        what = f"{self.name}: {times} x {pattern!r}:"
        wait_until(lambda: self.count(pattern) >= times or not self._reader.is_alive(), True, what)
        assert self.count(pattern) >= times, f"{self.name} has ended without {pattern!r}"

    def wait_for_exit(self) -> int:
        """Wait for the end of the program and its log; return its exit status."""
        self._reader.join(LIMIT)
        return self.process.wait(LIMIT)
