"""The two scripts as processes, their output collected as it comes."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Tuple, Type

from rig.broker import LIMIT, Broker, free_ports, wait_until

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
CONSUMER = ROOT / "consumer.py"
PRODUCER = ROOT / "producer.py"


class Script:
    """consumer.py or producer.py (or any program) as a process, its output collected as
    it comes.

    Use it as a context manager: it is killed at the end if it still runs. With a label
    its lines are
    shown as well, the label before each.
    """

    def __init__(
        self,
        *arguments: object,
        url: Optional[str] = None,
        stdin: Optional[bytes] = None,
        python: bool = True,
        label: str = "",
        **environment: str,
    ) -> None:
        self.environment: Dict[str, str] = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        if url is not None:
            self.environment["AMQP_URL"] = url
        self.label = label
        self.lines: Dict[str, List[str]] = {"stdout": [], "stderr": []}
        self.arrivals: Dict[str, List[float]] = {
            name: [] for name in self.lines
        }  # of the lines, monotonic
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*([sys.executable] if python else []), *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(name,), daemon=True)
            for name in self.lines
        ]
        for reader in self._readers:
            reader.start()
        if stdin is not None:
            assert self.process.stdin
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as stream:
            for line in stream:
                self.arrivals[name].append(
                    time.monotonic()
                )  # first: who sees the line sees this too
                text = line.decode("utf-8", "surrogateescape").rstrip("\n")
                self.lines[name].append(text)
                if self.label:
                    print(f"{self.label} | {text}\n", end="", flush=True)

    def __enter__(self) -> "Script":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.process.kill()
        self.wait()

    @property
    def out(self) -> str:
        return "\n".join(self.lines["stdout"])

    @property
    def err(self) -> str:
        return "\n".join(self.lines["stderr"])

    def wait_for(
        self, pattern: str, stream: str = "stdout", limit: float = LIMIT
    ) -> "re.Match[str]":
        """Wait until a line matches the pattern; AssertionError, with all output, if
        none comes.
        """

        def match() -> Optional["re.Match[str]"]:
            matches = (re.search(pattern, line) for line in list(self.lines[stream]))
            found = next(filter(None, matches), None)
            if not found and self.process.poll() is not None and not self._reading():
                raise AssertionError(f"ended without {pattern!r}: {self!r}")
            return found

        try:
            return wait_until(match, pattern, limit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self!r}") from None

    def _reading(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def signal(self, number: int = signal.SIGINT) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its end, and for the rest of its output; return the exit status."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running after {limit:.0f} s: {self!r}"
            ) from None
        for reader in self._readers:
            reader.join(limit)
        return status

    def __repr__(self) -> str:
        head = f"{self.process.args!r}, status {self.process.poll()}"
        return f"{head}\n--stdout\n{self.out}\n--stderr\n{self.err}"


def consumer(broker: Broker, *arguments: object, **options: Any) -> Script:
    """Start consumer.py against the broker."""
    return Script(CONSUMER, *arguments, **{"url": broker.url(), **options})


def producer(broker: Broker, *arguments: object, **options: Any) -> Script:
    """Start producer.py against the broker."""
    return Script(PRODUCER, *arguments, **{"url": broker.url(), **options})


def patched(name: str, changes: str, *arguments: object, **options: Any) -> Script:
    """Start a program that imports a script, changes something in it and runs it."""
    code = f"import {name}\n{changes}\n{name}.main()\n"
    return Script("-c", code, *arguments, **{"PYTHONPATH": str(ROOT), **options})


def nowhere() -> str:
    """Return the AMQP URL of a port at which nothing listens."""
    return f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"


def end_with_broken_pipe(script: Path, broker: Broker) -> Tuple[int, bytes]:
    """Run a script whose standard output nobody reads any more; return its exit status
    and standard error.
    """
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "AMQP_URL": broker.url()}
    run = subprocess.run(
        [sys.executable, script],
        env=environment,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    return run.returncode, run.stderr
