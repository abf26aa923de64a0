"""What demo, soak, experiments and benchmark do alike: a node of their own, an end."""

import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Iterator, NoReturn, Optional, Tuple, Type

import pika

from rig.broker import Broker

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Connection(pika.BlockingConnection):  # type: ignore[misc]
    """A connection that is left open where a signal ends the program.

    A signal in the middle of one of its calls may make close() wait for ever.
    """

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if kind is not KeyboardInterrupt:
            super().__exit__(kind, error, traceback)


class OwnBroker(Broker):
    """A RabbitMQ node of a program's own."""

    def connect(self) -> Connection:
        return Connection(pika.URLParameters(self.url()))


@contextlib.contextmanager
def own_broker(purpose: str, config: str = "") -> Iterator[Tuple[OwnBroker, Path]]:
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


def run(main: Callable[[], Optional[int]]) -> NoReturn:
    """Run a program and exit with its status; with 130 where a signal ended it."""
    for number in ENDINGS:
        signal.signal(number, interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
