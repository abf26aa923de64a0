"""Changes of the two scripts, which a test puts in place by name.

    start_consumer(node, no_pause, partial(work_takes, seconds=5))

They run in the script's process, before its main(): python -m rig.changes SCRIPT. The environment
variable CHANGES has them, pickled.
"""

import base64
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable

import pika
from pika.adapters.blocking_connection import BlockingChannel

import consumer
import producer

Change = Callable[[], None]

# Of both scripts


def no_pause() -> None:
    """Let a script try again at once."""
    time.sleep = lambda seconds: None


def show_connection() -> None:
    """Let a script print what it would connect with, and end with status 3."""

    def show(parameters: pika.URLParameters) -> None:
        for name, value in connection_settings(parameters).items():
            print(f"{name}: {value}", flush=True)
        raise SystemExit(3)

    pika.BlockingConnection = show


def connection_settings(parameters: pika.URLParameters) -> dict[str, str]:
    """Return all that pika connects with: host, password, limits in time, TLS and more."""
    found = {}
    for kind in type(parameters).__mro__:
        for slot in getattr(kind, "__slots__", ()):
            if not slot.startswith("__"):
                found[slot.strip("_")] = repr(getattr(parameters, slot))
    found["credentials"] = f"{parameters.credentials.username} {parameters.credentials.password}"
    if parameters.ssl_options:
        context = parameters.ssl_options.context
        server = parameters.ssl_options.server_hostname
        found["ssl_options"] = f"{server} {context.check_hostname} {context.verify_mode}"
    return found


# Of producer.py


def orders_are(order_ids: list[str]) -> None:
    """Let it publish these orders."""
    rest = {"customer": "Анна Ким", "amount": 1249.5, "status": "pending"}
    producer.ORDERS = [{"order_id": order_id, **rest} for order_id in order_ids]


def attempts(number: int) -> None:
    """Let it give up after so many failures."""
    producer.ATTEMPTS = number


def patient() -> None:
    """Let it go on for long, as a node may boot slowly."""
    attempts(1_000)


# Of consumer.py


def work_is(work: Callable[[dict], None]) -> None:
    """Let this be the work on an order."""
    setattr(consumer, "process_order", work)  # noqa: B010 (mypy refuses the assignment)


def work_is_nothing() -> None:
    """Let the work be empty, for measurements."""
    work_is(lambda order: None)


def work_takes(seconds: float = 0) -> None:
    """Let the work take so long, and say when it begins and ends, whatever happens next."""

    def work(order: dict) -> None:
        print("begin", order["order_id"], flush=True)
        time.sleep(seconds)
        print("end", order["order_id"], flush=True)

    work_is(work)


def work_waits() -> None:
    """Let the work wait at a gate: until the test closes the process's standard input."""

    def work(order: dict) -> None:
        print("begin", order["order_id"], flush=True)
        sys.stdin.read()
        print("end", order["order_id"], flush=True)

    work_is(work)


def work_fails(times: int = 1, error: BaseException | None = None, gate: bool = False) -> None:
    """Let the work on the order FAILS fail so often, by default as a declined card would.

    With `gate`, each failure waits until the test closes the process's standard input.
    """
    failures = 0

    def charge_the_card(order: dict) -> None:
        nonlocal failures
        print("begin", order["order_id"], flush=True)
        if order["order_id"] == "FAILS" and failures < times:
            failures += 1
            if gate:
                sys.stdin.read()
            raise RuntimeError("the card was declined") if error is None else error

    work_is(charge_the_card)


class Falsy(Exception):
    """An exception that is not true, as one with __len__() can be."""

    def __bool__(self) -> bool:
        return False


def work_crashes() -> None:
    """Let the process die in its first work, by SIGKILL."""
    work_is(lambda order: os.kill(os.getpid(), signal.SIGKILL))


def work_is_code(code: str) -> None:
    """Let the work be the process_order() in a text, such as README's."""
    names: dict[str, Callable[[dict], None]] = {}
    exec(code, names)
    work_is(names["process_order"])


def work_empties_the_order() -> None:
    """Let the work print the order, then take everything out of it."""

    def work(order: dict) -> None:
        print(order, flush=True)
        order.clear()

    work_is(work)


def method_is_missing(name: str) -> None:
    """Let each call of one of the channel's methods fail."""
    setattr(BlockingChannel, name, None)


if __name__ == "__main__":
    script = sys.argv.pop()  # the scripts take no arguments
    for change in pickle.loads(base64.b64decode(os.environ["CHANGES"])):
        change()
    {"producer": producer, "consumer": consumer}[script].main()
