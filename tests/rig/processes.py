"""The two scripts as processes, as they are or changed, and what they log."""

import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGKILL

from rig.node import DIES_WITH_US
from rig.waiting import LIMIT, wait_until, watchers

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
PRODUCER, CONSUMER = ROOT / "producer.py", ROOT / "consumer.py"
PRODUCER_OF_MANY = TESTS / "changed/producer_of_many.py"  # PREFIX COUNT
WORKER = TESTS / "changed/worker.py"  # a consumer

CLOCK = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", re.M)  # begins each record of a log
ENVIRONMENT = {  # nothing of the user's
    "PATH": os.environ["PATH"],
    "LC_ALL": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",  # a killed program would lose what it has printed
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "PYTHONPATH": f"{TESTS}:{ROOT}",
    "SLOWER": os.environ.get("SLOWER", "1"),
}


class Program:
    """A Python program as a process; it is killed at the end of a `with`.

    It may log records of level INFO, and those that the pattern `may_say` fits. If it says anything
    else, the test fails.
    """

    def __init__(self, path: Path, amqp_url: str, *arguments: object, may_say: str = "") -> None:
        self.name = " ".join(map(str, [path.name, *arguments]))
        self._may_say = may_say
        self._lines: list[str] = []  # of standard error
        self.printed = b""  # what it has written to standard output, once it has ended
        self.process = subprocess.Popen(
            [*DIES_WITH_US, sys.executable, path, *map(str, arguments)],
            cwd=tempfile.gettempdir(),
            env={**ENVIRONMENT, "TMPDIR": tempfile.gettempdir(), "AMQP_URL": amqp_url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.process as process:  # it closes the pipes
            assert process.stderr and process.stdout
            for line in process.stderr:
                self._lines.append(line.decode(errors="backslashreplace"))
            self.printed = process.stdout.read()

    @property
    def log(self) -> str:
        """What it has written to standard error, in whole lines."""
        return "".join(self._lines)

    @property
    def records(self) -> list[str]:
        """The records of the log without the clock; one can have several lines."""
        return [record.removesuffix("\n") for record in CLOCK.split(self.log) if record]

    def check(self) -> None:
        """AssertionError if it has said what it may not say.

        A traceback belongs to the work, or to a mistake: an error of RabbitMQ's is one line.
        """
        assert not self.printed, f"{self.name} printed: {self.printed!r}"
        for record in self.records:
            first, *more = record.split("\n")
            expected = self._may_say and re.search(self._may_say, first)
            assert expected or first.startswith("INFO "), f"{self.name} said: {record}"
            with_traceback = first.startswith(("ERROR Failed: '", "ERROR Trying again"))
            assert with_traceback or not more, f"{self.name} said: {record}"

    def __enter__(self) -> "Program":
        watchers.append(self.check)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.process.kill()  # if it still runs
        self._reader.join(LIMIT)
        watchers.remove(self.check)
        # pytest shows this with a test that failed.
        lines = [line[:300] for line in self.log.split("\n")]
        logging.info("%s:\n%s", self.name, "\n".join(lines[-100:]))
        if not kind:
            self.check()

    def orders(self, said: str) -> list[str]:
        """Return the order_ids in lines such as "Received 'A'" or 'Stored {"order_id": "A"…'."""
        return re.findall(rf"(?m)INFO {said} (?:'|{{\"order_id\": \")([^'\"]*)", self.log)

    def count(self, pattern: str) -> int:
        """Return how many records the pattern fits."""
        return sum(bool(re.search(pattern, record)) for record in self.records)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition; fail at once if this program has ended without it."""

        def met() -> bool:
            ended = self.has_ended()  # asked first, so that all it said is there
            found = condition()
            assert found or not ended, f"{self.name} ended without {what}"
            return found

        wait_until(met, f"{what} from {self.name}", seen=lambda: self.records[-5:])

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many records fit."""
        self.wait_until(lambda: self.count(pattern) >= times, repr(pattern))

    def has_ended(self) -> bool:
        return not self._reader.is_alive()

    def let_work_end(self) -> None:
        """Let the work on an order that waits (changed/worker.py) go on."""
        assert self.process.stdin
        self.process.stdin.close()

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end; return the exit status."""
        wait_until(self.has_ended, f"{self.name} to end", limit, seen=lambda: self.records[-5:])
        return self.process.wait()

    def kill(self, number: int = SIGKILL) -> None:
        """Send it a signal, and see that it dies of it at once."""
        self.process.send_signal(number)
        status = self.wait(LIMIT / 4)
        assert status == -number, f"{self.name} ended with status {status}"


def run_consumer(path: Path, amqp_url: str, until: str, may_say: str = "") -> Program:
    """Run a consumer until it says something."""
    with Program(path, amqp_url, may_say=may_say) as program:
        program.wait_for(until)
        program.kill(SIGINT)
    return program


def run_producer(path: Path, amqp_url: str, *arguments: object) -> Program:
    """Run a producer to its good end."""
    with Program(path, amqp_url, *arguments) as program:
        assert program.wait() == 0
    return program
