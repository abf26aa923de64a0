"""The two scripts as processes, as they are or changed, their output collected as it comes."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from signal import SIGINT
from typing import Any

from rig.broker import LIMIT, Broker, free_ports, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
CONSUMER = ROOT / "consumer.py"
PRODUCER = ROOT / "producer.py"
BOTH = [PRODUCER, CONSUMER]


class Script:
    """A Python program (or any) as a process; it is killed at the end of a `with`.

    `lines` has what it writes, standard output and error together, and `arrivals` when
    each line came (time.monotonic()). With a label the lines are shown, too.
    """

    def __init__(
        self,
        *arguments: object,
        url: str | None = None,
        python: str = sys.executable,
        label: str = "",
        **environment: object,
    ) -> None:
        variables = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "",  # as most users have it
            "PYTHONWARNINGS": "ignore:BlockingConnection is deprecated",  # as pika 1.5 says
            "PYTHONPATH": f"{TESTS}:{ROOT}",
            **({} if url is None else {"AMQP_URL": url}),
            **{name: str(value) for name, value in environment.items()},
        }
        self.label = label
        self.lines: list[str] = []
        self.arrivals: list[float] = []
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*([python] if python else []), *map(str, arguments)],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as stream:
            for line in stream:
                self.arrivals.append(time.monotonic())  # first: see `lines`, see this
                text = line.decode("utf-8", "surrogateescape").rstrip("\n")
                self.lines.append(text)
                if self.label:
                    print(f"{self.label} | {text}\n", end="", flush=True)

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *_: object) -> None:
        # An interrupt in the middle of wait() can leave its lock locked for ever.
        self.process._waitpid_lock = threading.Lock()  # type: ignore[attr-defined]
        self.process.kill()
        self.wait()
        assert self.process.stdin
        self.process.stdin.close()

    @property
    def out(self) -> str:
        return "\n".join(self.lines)

    def seen(self, pattern: str) -> list[tuple[str, float]]:
        """Return (group 1, time of arrival) of each line that the pattern matches."""
        lines = zip(list(self.lines), self.arrivals, strict=False)
        found = [(re.search(pattern, line), arrival) for line, arrival in lines]
        return [(match[1], arrival) for match, arrival in found if match]

    def texts(self, pattern: str) -> list[str]:
        """Return group 1 of each line that the pattern matches."""
        return [text for text, _ in self.seen(pattern)]

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Wait until so many lines match; AssertionError, with all output, if they do not."""

        def matches() -> bool:
            ended = not self._reader.is_alive()
            enough = len(self.seen(f"({pattern})")) >= times
            assert enough or not ended, f"ended without {pattern!r}: {self!r}"
            return enough

        try:
            wait_until(matches, pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self!r}") from None

    def signal(self, number: int = SIGINT) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self) -> bool:
        """Tell whether it has ended."""
        return self.process.poll() is not None

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end, and for the rest of its output; return the exit status."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            text = f"still running after {limit:.0f} s: {self!r}"
            raise AssertionError(text) from None
        self._reader.join(limit)
        return status

    def stop(self, number: int = SIGINT) -> None:
        """Let a consumer stop, and see that it does so in good order."""
        self.signal(number)
        assert self.wait() == 0, self
        assert self.lines[-1].endswith(" Stopped"), self

    def __repr__(self) -> str:
        return f"{self.process.args!r}, status {self.process.poll()}\n{self.out}"


def consumer(broker: Broker, seconds: float = 0, **options: Any) -> Script:
    """Start consumer.py against the broker; `seconds`: its work on an order."""
    return Script(CONSUMER, **{"url": broker.url(), "PROCESSING_TIME": seconds, **options})


def producer(broker: Broker, *arguments: object, **options: Any) -> Script:
    """Start producer.py against the broker."""
    return Script(PRODUCER, *arguments, **{"url": broker.url(), **options})


def changed(path: Path, change: str, *arguments: object, **options: Any) -> Script:
    """Start a script after some lines of Python that change its module, `script`."""
    return Script(
        "-c", f"import {path.stem} as script\n{change}\nscript.main()", *arguments, **options
    )


PATIENT = "script.ATTEMPTS = 1_000"  # for the producer, as nodes may boot slowly
IMPATIENT = "script.ATTEMPTS = 3"
TELLING = """
import sys, time
def work(order):
    order_id = order["order_id"]
    print("begin", order_id, flush=True)
    time.sleep(script.PROCESSING_TIME)
    print("end", order_id, flush=True)  # it stays said, whatever happens the moment after
    if order_id == "FAILS":
        raise RuntimeError("the card was declined")
script.process_order = work
"""


def telling_consumer(url: str, seconds: float = 0) -> Script:
    """Start a consumer that says when its work on an order begins and ends; it fails at FAILS."""
    return changed(CONSUMER, TELLING, url=url, PROCESSING_TIME=seconds)


def processed(script: Script) -> list[str]:
    """Return the orders that a consumer says it has processed, in their order."""
    return script.texts("Processed '(.*)'")


def stored(script: Script) -> list[str]:
    """Return the orders that a producer says are stored."""
    return script.texts("Stored '(.*)' ")


def nowhere() -> str:
    """Return the AMQP URL of a port at which nothing listens."""
    return f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
