"""What demo, soak, experiments and benchmark do alike: a node of their own, an end."""

import contextlib
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pika

from rig.broker import Broker

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
started = time.monotonic()


class Connection(pika.BlockingConnection):  # type: ignore[misc]
    """A connection that is left open where a signal ends the program.

    A signal in the middle of one of its calls may make close() wait for ever.
    """

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Close it."""
        if kind is not KeyboardInterrupt:
            super().__exit__(kind, error, traceback)


class OwnBroker(Broker):
    """A RabbitMQ node of a program's own."""

    def connect(self) -> Connection:
        """Return a connection of the program's own."""
        return Connection(pika.URLParameters(self.url()))


@contextlib.contextmanager
def own_broker(purpose: str, config: str = "") -> Iterator[tuple[OwnBroker, Path]]:
    """Give a RabbitMQ node that runs, and a folder for files; remove both at the end.

    `config` is the text of its rabbitmq.conf.
    """
    with tempfile.TemporaryDirectory(prefix=f"orders-{purpose}-") as name:
        broker = OwnBroker(Path(name) / "node", config)
        try:
            broker.start()
            yield broker, Path(name)
        finally:
            broker.kill()


def interrupt(signal_number: int, frame: Any) -> NoReturn:
    """Raise KeyboardInterrupt, and let nothing interrupt the cleaning up after it."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and exit with its status; with 130 where a signal ended it."""
    for number in ENDINGS:
        signal.signal(number, interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    elapsed = time.monotonic() - started
    print(f"{elapsed:5.0f} s  {text}", file=sys.stderr, flush=True)


def versions(broker: Broker) -> str:
    """Return what was measured with, in words."""
    with broker.connect() as connection:
        server = connection._impl.server_properties["version"]
    python, cores = platform.python_version(), os.cpu_count()
    return f"RabbitMQ {server}, pika {pika.__version__}, Python {python}, {cores} cores"
