"""The two scripts as processes, as they are or changed, their output collected as it comes."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from signal import SIGINT
from typing import Any

import psutil

from rig.broker import LIMIT, free_ports, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
PRODUCER, CONSUMER = ROOT / "producer.py", ROOT / "consumer.py"


class Script:
    """A Python program as a process; it is killed at the end of a `with`.

    `lines` has its output, with the errors unless `stderr` leads them elsewhere, and `moments`
    when (time.time()): by the log's own clock, or when a line came that has none. `finished`
    is when it ended. With a label the lines are shown, too. Without `stdin` that is a pipe.
    """

    def __init__(
        self,
        *arguments: object,
        python: str = sys.executable,
        label: str = "",
        stdin: bytes | None = None,
        stderr: int = subprocess.STDOUT,
        **variables: object,
    ) -> None:
        environment = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "",  # as most users have it
            "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
            "PYTHONPATH": f"{TESTS}:{ROOT}",
            **{name: str(value) for name, value in variables.items()},
        }
        self.label = label
        self.lines: list[str] = []
        self.moments: list[float] = []
        self.started = time.time()
        with tempfile.TemporaryFile() as file:
            file.write(stdin or b"")
            file.seek(0)
            self.process = psutil.Popen(
                [python, *map(str, arguments)],
                env=environment,
                stdin=subprocess.PIPE if stdin is None else file,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as stream:
            for line in stream:
                text = line.decode("utf-8", "surrogateescape").rstrip("\n")
                clock = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", text)
                moment = datetime.fromisoformat(clock[0][:-1]).timestamp() if clock else time.time()
                self.moments.append(moment)  # first: see `lines`, see this
                self.lines.append(text)
                if self.label:
                    print(f"{self.label} | {text}\n", end="", flush=True)
        self.finished = time.time()

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended():
            self.process.kill()
        self.wait()
        if self.process.stdin:
            self.process.stdin.close()

    def __repr__(self) -> str:
        return f"{self.process.args!r}, status {self.process.poll()}\n{self.out}"

    @property
    def out(self) -> str:
        return "\n".join(self.lines)

    @property
    def stored(self) -> list[str]:
        """The orders that a producer says are stored."""
        return self.texts("Stored '(.*)' ")

    @property
    def processed(self) -> list[str]:
        """The orders that a consumer says it has processed, in their order."""
        return self.texts("Processed '(.*)'")

    def seen(self, pattern: str) -> list[tuple[str, float]]:
        """Return (group 1, moment) of each line that the pattern matches."""
        lines = zip(list(self.lines), self.moments, strict=False)
        found = [(re.search(pattern, line), moment) for line, moment in lines]
        return [(match[1], moment) for match, moment in found if match]

    def texts(self, pattern: str) -> list[str]:
        """Return group 1 of each line that the pattern matches."""
        return [text for text, _ in self.seen(pattern)]

    def wait_for(self, pattern: str, times: int = 1, limit: float = LIMIT) -> None:
        """Wait until so many lines match; AssertionError, with all output, if they do not."""

        def matches() -> bool:
            ended = not self._reader.is_alive()  # first, so that all it wrote is there then
            enough = len(self.seen(f"({pattern})")) >= times
            assert enough or not ended, f"ended without {pattern!r}: {self!r}"
            return enough

        wait_until(matches, (pattern, self), limit)

    def signal(self, number: int = SIGINT) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

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
        self.signal(number)
        assert self.wait() == 0, self
        assert self.lines[-1].endswith(" Stopped"), self


def start(path: Path, where: Any, *arguments: object, change: str = "", **options: Any) -> Script:
    """Start a script; `where`: RabbitMQ's URL, or what has it as url(), or None for none.

    `change`: lines of Python that change its module, `script`, before it begins.
    """
    if where:
        options["AMQP_URL"] = where if isinstance(where, str) else where.url()
    code = f"import {path.stem} as script\n{change}\nscript.main()"
    command = ["-c", code] if change else [path]
    return Script(*command, *arguments, **options)


def consumer(where: Any, seconds: float = 0, **options: Any) -> Script:
    """Start consumer.py; `seconds`: its work on an order."""
    return start(CONSUMER, where, PROCESSING_TIME=seconds, **options)


def producer(
    where: Any, *arguments: object, lines: Iterable[bytes] | None = None, **options: Any
) -> Script:
    """Start producer.py; `lines`: the orders, which it then reads at standard input."""
    if lines is not None:
        arguments, options["stdin"] = ("/dev/stdin",), b"\n".join(lines)
    return start(PRODUCER, where, *arguments, **options)


PATIENT = "script.ATTEMPTS = 1_000"  # for the producer, as nodes may boot slowly
IMPATIENT = "script.ATTEMPTS = 3"
WITHOUT_PAUSE = "script.time.sleep = script.pika.BlockingConnection.sleep = lambda *_: None"
TELLING = """
import time
def work(order):
    print("begin", order["order_id"], flush=True)
    time.sleep(script.PROCESSING_TIME)
    print("end", order["order_id"], flush=True)  # it stays said, whatever happens next
script.process_order = work
"""

DECLINED = "raise RuntimeError('the card was declined')"
FAILING = """
failures = {times}
def work(order):
    global failures
    if order["order_id"] == "FAILS" and failures:
        failures -= 1
        {failure}
script.process_order = work
"""


def failing(times: int, failure: str = DECLINED) -> str:
    """Return a change: the work on the order FAILS fails so often."""
    return FAILING.format(times=times, failure=failure)


def telling_consumer(where: Any, seconds: float = 0, change: str = "") -> Script:
    """Start a consumer that says when its work on an order begins and ends."""
    return consumer(where, seconds, change=TELLING + change)


def nowhere() -> str:
    """Return the AMQP URL of a port at which nothing listens."""
    return f"amqp://127.0.0.1:{free_ports(1)[0]}"
