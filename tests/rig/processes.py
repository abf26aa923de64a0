"""The two scripts as processes, as they are or changed, and what they log."""

import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from signal import SIGINT, SIGKILL

from rig.node import DIES_WITH_US, LIMIT, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
PRODUCER, CONSUMER = ROOT / "producer.py", ROOT / "consumer.py"
PRODUCER_OF_MANY = TESTS / "changed/producer_of_many.py"  # PREFIX COUNT ATTEMPTS
WORKER = TESTS / "changed/worker.py"  # a consumer

CLOCK = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", re.M)  # begins each record of a log
ENVIRONMENT = {  # nothing of the user's
    "PATH": os.environ["PATH"],
    "LC_ALL": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",  # a killed program would lose what it has printed
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "PYTHONPATH": f"{TESTS}:{ROOT}",
}


class Program:
    """A Python program as a process; it is killed at the end of a `with`.

    It may log records of level INFO. If `must_say` is given, it must log one that this pattern
    fits, and may log more of these. If it logs another record, or prints anything, the test fails.
    """

    def __init__(self, path: Path, amqp_url: str, *arguments: object, must_say: str = "") -> None:
        self.name = " ".join(map(str, [path.name, *arguments]))
        self.must_say = must_say
        self._lines: list[str] = []  # of standard error
        self.printed = b""  # what it has written to standard output, once it has ended
        self.process = subprocess.Popen(
            [*DIES_WITH_US, sys.executable, path, *map(str, arguments)],
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

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.process.kill()  # if it still runs
        self._reader.join(LIMIT)
        # pytest shows this with a test that failed.
        logging.info("%s:\n%s", self.name, "\n".join(line[:300] for line in self.log.split("\n")))
        if not kind:
            self._has_ended()
            assert not self.must_say or self.count(self.must_say), f"{self.name}: {self.must_say!r}"

    def orders(self, said: str) -> list[str]:
        """Return the order_ids in lines such as "Received 'A'"."""
        return re.findall(rf"(?m)INFO {said} '?([^' \n]*)", self.log)

    def count(self, pattern: str) -> int:
        """Return how many records the pattern fits."""
        return sum(bool(re.search(pattern, record)) for record in self.records)

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many records fit; fail at once if they cannot come any more."""

        def there() -> bool:
            ended = self._has_ended()
            enough = self.count(pattern) >= times
            assert enough or not ended, f"{self.name} ended without {pattern!r}"
            return enough

        wait_until(there, f"{pattern!r} from {self.name}")

    def _has_ended(self) -> bool:
        """Tell whether it has ended. AssertionError if it has said what it may not say.

        A traceback belongs to a failure of the work, and to nothing else.
        """
        ended = not self._reader.is_alive()  # asked first, so that all it said is there
        assert not self.printed, f"{self.name} printed: {self.printed!r}"
        for record in self.records:
            first, *more = record.split("\n")
            expected = self.must_say and re.search(self.must_say, first)
            assert expected or first.startswith("INFO "), f"{self.name} said: {record}"
            assert not more or first.startswith("ERROR Failed"), f"{self.name} said: {record}"
        return ended

    def let_work_end(self) -> None:
        """Let the work on an order that waits (changed/worker.py) go on."""
        assert self.process.stdin
        self.process.stdin.close()

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end, or for what it may not say; return the exit status."""
        wait_until(self._has_ended, f"{self.name} to end", limit)
        return self.process.wait()

    def kill(self, number: int = SIGKILL) -> None:
        """Send it a signal, and see that it dies of it at once."""
        self.process.send_signal(number)
        status = self.wait(LIMIT / 4)
        assert status == -number, f"{self.name} ended with status {status}"


def consume(path: Path, amqp_url: str, until: str, must_say: str = "") -> Program:
    """Run a consumer until it says something."""
    with Program(path, amqp_url, must_say=must_say) as program:
        program.wait_for(until)
        program.kill(SIGINT)
    return program


def publish(path: Path, amqp_url: str, *arguments: object, must_say: str = "") -> Program:
    """Run a producer to its good end."""
    with Program(path, amqp_url, *arguments, must_say=must_say) as program:
        assert program.wait() == 0
    return program
