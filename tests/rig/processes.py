"""The two scripts as processes, as they are or changed, and what they log."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from signal import SIGINT, SIGKILL

from rig.node import DIES_WITH_US, LIMIT, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
PRODUCER, CONSUMER = ROOT / "producer.py", ROOT / "consumer.py"
PRODUCER_OF_MANY = TESTS / "changed/producer_of_many.py"  # PREFIX COUNT ATTEMPTS
WORKER = TESTS / "changed/worker.py"  # a consumer

CLOCK = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")  # begins each record of a log
ENVIRONMENT = {
    **os.environ,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
    "PYTHONPATH": f"{TESTS}:{ROOT}",
}
started_programs: list["Program"] = []  # of which a failed test shows the log


class Program:
    """A Python program as a process; it is killed at the end of a `with`.

    It may log lines of level INFO, and must log a record that `must_say` fits, and more of these.
    If it logs another record, or prints anything, that is an error, unless `must_say` is None.
    """

    def __init__(
        self, path: Path, amqp_url: str, *arguments: object, must_say: str | None = ""
    ) -> None:
        self.name = " ".join(map(str, [path.name, *arguments]))
        self.must_say = must_say
        self.log: list[str] = []  # the lines on standard error
        self.records: list[str] = []  # the same without the clock; one can have several lines
        self.printed = b""  # on standard output
        self.process = subprocess.Popen(
            [*DIES_WITH_US, sys.executable, path, *map(str, arguments)],
            env={**ENVIRONMENT, "AMQP_URL": amqp_url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        started_programs.append(self)

    def _read(self) -> None:
        assert self.process.stderr and self.process.stdout
        with self.process.stderr as lines:
            for line in lines:
                text = line.decode(errors="backslashreplace").removesuffix("\n")
                self.log.append(text)
                if CLOCK.match(text) or not self.records:
                    self.records.append(CLOCK.sub("", text))
                else:
                    self.records[-1] += f"\n{text}"
        with self.process.stdout as output:
            self.printed = output.read()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.process.kill()  # if it still runs
        self.wait()
        if not kind:
            self._see_only_what_it_may_say()
            assert not self.must_say or self.count(self.must_say), f"{self.name}: {self.must_say!r}"

    def orders(self, said: str) -> list[str]:
        """Return the order_ids in lines such as "Received 'A'"."""
        return self.texts(rf"^INFO {said} '?([^' ]*)")

    def texts(self, pattern: str) -> list[str]:
        """Return group 1 of each record that the pattern fits."""
        return [found[1] for record in self.records if (found := re.search(pattern, record))]

    def count(self, pattern: str) -> int:
        """Return how many records the pattern fits."""
        return sum(bool(re.search(pattern, record)) for record in self.records)

    def wait_for(self, pattern: str, times: int = 1, limit: float = LIMIT) -> None:
        """Wait until so many records fit; fail at once if they cannot come any more."""

        def there() -> bool:
            ended = not self._reader.is_alive()  # asked first, so that all it said is there
            if self.count(pattern) >= times:
                return True
            self._see_only_what_it_may_say()
            assert not ended, f"{self.name} ended without {pattern!r}"
            return False

        wait_until(there, f"{pattern!r} from {self.name}", limit)

    def _see_only_what_it_may_say(self) -> None:
        """A traceback belongs to a failure of the work, and to nothing else."""
        if self.must_say is None:
            return
        assert not self.printed, f"{self.name} printed: {self.printed!r}"
        for record in self.records:
            first, *more = record.split("\n")
            expected = self.must_say and re.search(self.must_say, first)
            assert expected or first.startswith("INFO "), f"{self.name} said: {record}"
            assert not more or first.startswith("ERROR Failed"), f"{self.name} said: {record}"

    def let_work_end(self) -> None:
        """Let the work on an order that waits (changed/worker.py) go on."""
        assert self.process.stdin
        self.process.stdin.close()

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end; return the exit status."""
        wait_until(lambda: self.process.poll() is not None, f"{self.name} to end", limit)
        self._reader.join()
        self.let_work_end()
        return self.process.wait()

    def kill(self, number: int = SIGKILL) -> None:
        """Send it a signal, and see that it dies of it at once."""
        self.process.send_signal(number)
        status = self.wait()
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
