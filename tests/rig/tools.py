"""What demo, soak and experiments do alike: a node of their own, an end."""

import contextlib
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pika

from rig.node import Node, running_node

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
started = time.monotonic()


@contextlib.contextmanager
def own_node(purpose: str) -> Iterator[Node]:
    """Give a RabbitMQ node that runs; remove it at the end."""
    with tempfile.TemporaryDirectory(prefix=f"orders-{purpose}-") as folder:
        with running_node(Node(Path(folder))) as node:
            yield node


def interrupted(signal_number: int, frame: object) -> NoReturn:
    """Raise KeyboardInterrupt, and let no other signal interrupt the cleaning up."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def clean_up_after_signals() -> None:
    """Let each of three signals end the program by KeyboardInterrupt.

    Ctrl-C too, since Python leaves SIGINT ignored where a shell has ignored it.
    """
    for number in ENDINGS:
        signal.signal(number, interrupted)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and exit with its status; with 130 where a signal ended it."""
    clean_up_after_signals()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)


def versions(node: Node) -> str:
    """Return what was measured with, in words."""
    server = node.rabbitmqctl("version").strip()
    return f"RabbitMQ {server}, pika {pika.__version__}, Python {platform.python_version()}"
